package importer

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// attach gives the annotations of a file that has nothing else to its recording.
func attach(labels *recording, plans []*recording) error {
	r, err := partner(labels, plans)
	if err != nil {
		return err
	}
	shift := -r.first
	if !r.start.IsZero() && !labels.start.IsZero() {
		apart := labels.start.Sub(r.start)
		if apart.Abs() > 24*time.Hour {
			return fmt.Errorf("%w: it begins at %v, and %s at %v", ErrImport, labels.start.Format(time.DateTime),
				filepath.Base(r.File), r.start.Format(time.DateTime))
		}
		shift += apart
	}
	if err := r.annotate(labels.notes, shift); err != nil {
		return err
	}
	r.Labels = labels.File
	return nil
}

// minPrefix of two names say that their files belong together.
const minPrefix = 4

// partner finds the recording that a file of annotations belongs to: of those in its folder, or else of all, the one
// whose name begins most like its own. Of several the clock decides.
func partner(labels *recording, plans []*recording) (*recording, error) {
	var beside []*recording
	for _, p := range plans {
		if filepath.Dir(p.File) == filepath.Dir(labels.File) {
			beside = append(beside, p)
		}
	}
	found := likest(labels, beside)
	if len(found) == 0 {
		found = likest(labels, plans)
	}
	if len(found) == 0 && len(beside) == 1 {
		found = beside
	}
	if len(found) > 1 && !labels.start.IsZero() {
		found = slices.DeleteFunc(slices.Clone(found), func(p *recording) bool {
			return p.start.IsZero() || labels.start.Sub(p.start).Abs() > 24*time.Hour
		})
	}
	why := ""
	switch {
	case len(found) == 0:
		why = "no recording is in a file that is named like it"
	case len(found) > 1:
		why = fmt.Sprintf("%d recordings fit it: %s", len(found), someNames(found))
	case found[0].Labels != "":
		why = fmt.Sprintf("%s has the annotations of %s", filepath.Base(found[0].File), filepath.Base(found[0].Labels))
	default:
		return found[0], nil
	}
	return nil, fmt.Errorf("%w: it has annotations only, and %s", ErrImport, why)
}

// someNames are those of the first files.
func someNames(plans []*recording) string {
	const most = 4
	var names []string
	for _, p := range plans[:min(len(plans), most)] {
		names = append(names, filepath.Base(p.File))
	}
	if len(plans) > most {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}

// likest are the recordings whose files' names begin most like that of labels.
func likest(labels *recording, plans []*recording) []*recording {
	var found []*recording
	most := minPrefix
	for _, p := range plans {
		n := 0
		for a, b := base(p.File), base(labels.File); n < min(len(a), len(b)) && a[n] == b[n]; {
			n++
		}
		if n > most {
			found, most = nil, n
		}
		if n == most {
			found = append(found, p)
		}
	}
	return found
}
