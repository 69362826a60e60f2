package onda

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/dataset"
)

// The values of Params.Fingerprint.
const (
	fingerprintStat    = "stat"
	fingerprintContent = "content"
)

func digest(data []byte) string {
	sum := xxh3.Hash128(data).Bytes()
	return hex.EncodeToString(sum[:])
}

// Fingerprint digests everything besides parameters that batches depend on: the
// tables' content as it was when the data set was opened, the recordings that
// were kept, and of every sample file size and time of its last change or, by
// Params.Fingerprint, its content. The files are looked at when it is called.
// Parts name single files, or, of many, ranges of their paths; the digest has
// every file without them. A file that cannot be opened is an error. Of a [Source] whose objects have
// neither ModTime nor Tag, only sizes count. The parameters that say where files are and how
// they are read change nothing that is digested, and are no part of a state's
// origin.
func (d *Dataset) Fingerprint(ctx context.Context) (dataset.Fingerprint, error) {
	files := make([]*Signal, 0, len(d.signals))
	seen := make(map[string]bool, len(d.signals))
	add := func(s *Signal) {
		if s != nil && !seen[s.Path] {
			seen[s.Path] = true
			files = append(files, s)
		}
	}
	for i := range d.signals {
		add(&d.signals[i].Signal)
		add(d.signals[i].Stored)
	}
	values, err := d.fingerprints(ctx, files)
	if err != nil {
		return dataset.Fingerprint{}, err
	}
	sum := xxh3.New()
	paths := make([]string, len(files))
	for i, v := range values {
		paths[i] = files[i].Path
		fmt.Fprintf(sum, "%q %s\n", paths[i], v)
	}
	all := sum.Sum128().Bytes()
	parts := append([]dataset.Part{
		{Name: "recordings", Value: strconv.Itoa(d.report.Kept)},
		{Name: "kept", Value: d.report.String()},
	}, d.tables...)
	parts = append(parts, dataset.Part{Name: "files", Value: hex.EncodeToString(all[:])})
	sum = xxh3.New()
	for _, p := range parts {
		fmt.Fprintf(sum, "%q %q\n", p.Name, p.Value)
	}
	whole := sum.Sum128().Bytes()
	return dataset.Fingerprint{
		Digest: hex.EncodeToString(whole[:]), Parts: append(parts, partsOfFiles(paths, values)...), Ignore: []string{
			"dir", "allow_links", "allow_urls", "files", "cache_dir", "cache_bytes",
		},
		Summary: d.report.String(),
	}, nil
}

// fingerprints looks at every file.
func (d *Dataset) fingerprints(ctx context.Context, files []*Signal) ([]string, error) {
	values := make([]string, len(files))
	group, looking := errgroup.WithContext(ctx)
	group.SetLimit(checkConcurrency)
	for i, s := range files {
		if looking.Err() != nil {
			break
		}
		group.Go(func() error {
			obj, err := d.reader.source.Open(looking, s.Path)
			if err != nil {
				return fmt.Errorf("fingerprint of recording %s: %w", s.Recording, err)
			}
			defer obj.Close()
			if err := refresh(looking, obj); err != nil {
				return fmt.Errorf("fingerprint of recording %s: %w", s.Recording, err)
			}
			if !d.content {
				values[i] = fileVersion(obj)
				return nil
			}
			sum := xxh3.New()
			in := streamOf(looking, obj)
			defer in.Close()
			n, err := io.CopyBuffer(sum, in, make([]byte, 1<<20))
			if err == nil && n != obj.Size() {
				err = errors.New("it is shorter than its size")
			}
			if err != nil {
				return fmt.Errorf("fingerprint of recording %s (%s): %w", s.Recording, s.Path, err)
			}
			whole := sum.Sum128().Bytes()
			values[i] = hex.EncodeToString(whole[:])
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return values, context.Cause(ctx)
}
