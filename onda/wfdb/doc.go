// Package wfdb reads recordings in the format of the WFDB library, which is that of PhysioNet: headers of one or of
// several segments, signal files, and annotations.
//
// Samples are read as the integers that they are. Whatever a file says of itself, no more is allocated than it has
// bytes, but for one block, and for annotations, up to 4 million. Sources:
// https://physionet.org/physiotools/wag/header-5.htm, signal-5.htm and annot-5.htm.
package wfdb

import (
	"errors"
	"fmt"
	"io"
)

// ErrFormat is returned for a header, a signal file or an annotation file that is none, or contradicts itself.
var ErrFormat = errors.New("wfdb: bad file")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// notEOF is err, or the end within the file, which must not look like the end of data.
func notEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
