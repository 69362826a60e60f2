package client

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// World says that this process is one of several ranks of one trainer, which take each batch together: every rank sees
// every batch, in order, and gets its part of the rows. All ranks ask for the same states, and each state says nothing
// of how many ranks there are, so that any one of them saves it, and any number goes on from it. Ranks do not wait for
// one another but to move to another state; no rank is more than a window ahead of another.
type World struct {
	// ID is the same for all ranks of one launch, and another after every restart: 1 to 64 letters, digits, '-' and '_'.
	ID string

	// Rank of this process, from 0.
	Rank int

	// Size is how many ranks there are; 256 at most.
	Size int

	// Part of Parts is which rows of each batch this rank gets. Equal parts may be given to several ranks, as tensor- or
	// pipeline-parallel ones need; 0 of 1 is all rows. Parts above 1 need the batch type schema.Batch. Both default to
	// Rank of Size.
	Part, Parts int

	// Whole names the tensors that every rank gets whole. All others must have the batch's rows on axis 0, or the batch
	// is ErrNotRows. Defaults to none.
	Whole []string

	// Even has a batch whose rows Parts does not divide be ErrUneven, at every rank alike. Defaults to false: parts
	// differ by one row at most, and Step.Rows says which they are.
	Even bool

	// Patience is how long a silent rank is waited for, 3 s at least; one that never came, ten times as long. Then Take
	// returns ErrRankLost at every rank. Defaults to 1 min.
	Patience time.Duration
}

const (
	defaultPatience = time.Minute
	leastPatience   = 3 * time.Second // a rank is heard once a second
)

// place is the rank as coordinators know it; the zero place for no world.
func (w *World) place() wire.Rank {
	if w == nil {
		return wire.Rank{}
	}
	return wire.Rank{World: w.ID, Rank: w.Rank}
}

// size is how many ranks there are; 0 for no world.
func (w *World) size() int {
	if w == nil {
		return 0
	}
	return w.Size
}

// patience is as configured; 0 for no world.
func (w *World) patience() time.Duration {
	if w == nil {
		return 0
	}
	return cmp.Or(w.Patience, defaultPatience)
}

// part is which rows the rank gets.
func (w *World) part() (wire.Part, error) {
	p := wire.Part{Index: w.Part, Count: w.Parts, Whole: w.Whole, Even: w.Even}
	if w.Parts == 0 && w.Part == 0 {
		p.Index, p.Count = w.Rank, w.Size
	}
	return p, p.Check()
}

func (w *World) validate(batches bool) error {
	if w == nil {
		return nil
	}
	if w.ID == "" {
		return errors.New("a world without an ID")
	}
	place := w.place()
	if err := place.Check(w.Size); err != nil {
		return err
	}
	part, err := w.part()
	switch {
	case err != nil:
		return err
	case part.Count > 1 && !batches:
		return fmt.Errorf("%d parts of batches that are no schema.Batch", part.Count)
	case w.Patience != 0 && w.Patience < leastPatience:
		return fmt.Errorf("a patience of %v; at least %v", w.Patience, leastPatience)
	}
	return nil
}

// WorldFromEnv returns the world that the launcher of this process describes, nil for none. It knows, in this order,
//
//   - JETBATCH_WORLD, an ID, with RANK and WORLD_SIZE;
//   - torchrun: TORCHELASTIC_RUN_ID, TORCHELASTIC_RESTART_COUNT, MASTER_ADDR and MASTER_PORT, with RANK and WORLD_SIZE;
//   - SLURM: SLURM_JOB_ID, SLURM_STEP_ID and SLURM_RESTART_COUNT, with SLURM_PROCID and SLURM_NTASKS;
//   - Open MPI: OMPI_MCA_ess_base_jobid or PMIX_NAMESPACE, with OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE.
//
// The ID is a digest of what names the launch, and JETBATCH_WORLD as it is. A launcher that is there and lacks a
// variable is an error that matches ErrBadConfig.
func WorldFromEnv() (*World, error) { return worldFrom(os.Getenv) }

// launcher is how a launcher tells its processes what they are.
type launcher struct {
	is         string   // this variable says that it is the one
	id         []string // variables that together name the launch
	rank, size string
}

var launchers = []launcher{
	{"JETBATCH_WORLD", nil, "RANK", "WORLD_SIZE"},
	{"TORCHELASTIC_RUN_ID", []string{"TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"},
		"RANK", "WORLD_SIZE"},
	{"SLURM_PROCID", []string{"SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"}, "SLURM_PROCID", "SLURM_NTASKS"},
	{"OMPI_COMM_WORLD_RANK", []string{"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"},
		"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
}

func worldFrom(getenv func(string) string) (*World, error) {
	for _, l := range launchers {
		if getenv(l.is) == "" {
			continue
		}
		w := &World{ID: getenv(l.is)}
		if l.id != nil {
			var named strings.Builder
			for _, name := range l.id {
				fmt.Fprintf(&named, "%s=%s\n", name, getenv(name))
			}
			sum := sha256.Sum256([]byte(named.String()))
			w.ID = hex.EncodeToString(sum[:16])
		}
		for name, to := range map[string]*int{l.rank: &w.Rank, l.size: &w.Size} {
			n, err := strconv.Atoi(getenv(name))
			if err != nil {
				return nil, fmt.Errorf("%w: %s is set, and %s is %q", ErrBadConfig, l.is, name, getenv(name))
			}
			*to = n
		}
		if err := w.validate(true); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadConfig, err)
		}
		return w, nil
	}
	return nil, nil //nolint:nilnil // there is no world, and no error
}
