package client

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/jetbatch/jetbatch/schema"
)

func TestWorldFromEnv(t *testing.T) {
	t.Parallel()
	torch := map[string]string{"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0", "RANK": "2", "WORLD_SIZE": "4"}
	with := func(env map[string]string, name, value string) map[string]string {
		changed := map[string]string{name: value}
		for n, v := range env {
			if n != name {
				changed[n] = v
			}
		}
		return changed
	}
	for name, c := range map[string]struct {
		env  map[string]string
		want *World // without an ID: any
		bad  bool
	}{
		"nothing":      {},
		"own":          {env: map[string]string{"JETBATCH_WORLD": "run-1", "RANK": "1", "WORLD_SIZE": "3"}, want: &World{ID: "run-1", Rank: 1, Size: 3}},
		"torchrun":     {env: torch, want: &World{Rank: 2, Size: 4}},
		"SLURM":        {env: map[string]string{"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, want: &World{Size: 2}},
		"Open MPI":     {env: map[string]string{"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, want: &World{Rank: 1, Size: 2}},
		"rank alone":   {env: map[string]string{"RANK": "1"}},
		"no size":      {env: with(torch, "WORLD_SIZE", ""), bad: true},
		"rank as size": {env: with(torch, "RANK", "4"), bad: true},
		"rank -1":      {env: with(torch, "RANK", "-1"), bad: true},
		"bad name":     {env: map[string]string{"JETBATCH_WORLD": "a b", "RANK": "0", "WORLD_SIZE": "1"}, bad: true},
	} {
		w, err := worldFrom(func(name string) string { return c.env[name] })
		if errors.Is(err, ErrBadConfig) != c.bad || (err == nil) == c.bad {
			t.Errorf("%s: %v", name, err)
		}
		if w != nil && c.want != nil && c.want.ID == "" {
			c.want.ID = w.ID
		}
		if diff := cmp.Diff(c.want, w); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	first, _ := worldFrom(func(name string) string { return torch[name] })
	again, _ := worldFrom(func(name string) string { return with(torch, "TORCHELASTIC_RESTART_COUNT", "1")[name] })
	if first.ID == again.ID {
		t.Error("a restart has the ID of the launch before")
	}
}

// TestWorldVectors reads launchers as other languages do: ranks of two of them may be in one world.
func TestWorldVectors(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../bridge/testdata/vectors.json")
	var vectors struct {
		Worlds []struct {
			Name       string
			Env        map[string]string
			ID         string
			Rank, Size int
			Bad        bool
		}
	}
	if err == nil {
		err = json.Unmarshal(data, &vectors)
	}
	if err != nil || len(vectors.Worlds) == 0 {
		t.Fatalf("no worlds: %v", err)
	}
	for _, v := range vectors.Worlds {
		var want *World
		if v.ID != "" {
			want = &World{ID: v.ID, Rank: v.Rank, Size: v.Size}
		}
		w, err := worldFrom(func(name string) string { return v.Env[name] })
		if errors.Is(err, ErrBadConfig) != v.Bad || (err != nil) != v.Bad {
			t.Errorf("%s: %v", v.Name, err)
		}
		if diff := cmp.Diff(want, w); diff != "" {
			t.Errorf("%s: %s", v.Name, diff)
		}
	}
}

// TestBadWorlds refuses worlds that cannot work before anybody is asked.
func TestBadWorlds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		w       World
		batches bool
		ok      bool
	}{
		"good":             {World{ID: "a", Rank: 1, Size: 2}, true, true},
		"no ID":            {World{Size: 1}, true, false},
		"rank too high":    {World{ID: "a", Rank: 2, Size: 2}, true, false},
		"no rank":          {World{ID: "a", Rank: -1, Size: 2}, true, false},
		"too many":         {World{ID: "a", Size: 257}, true, false},
		"part too high":    {World{ID: "a", Size: 2, Part: 2, Parts: 2}, true, false},
		"part of nothing":  {World{ID: "a", Size: 2, Part: 1}, true, false},
		"impatient":        {World{ID: "a", Size: 2, Patience: time.Second}, true, false},
		"parts of a type":  {World{ID: "a", Size: 2}, false, false},
		"a type as it is":  {World{ID: "a", Size: 2, Parts: 1}, false, true},
		"shared by a pair": {World{ID: "a", Rank: 3, Size: 4, Part: 1, Parts: 2}, true, true},
	} {
		cfg, err := Config{Name: "train", Dataset: "d", World: &c.w}.resolve(c.batches)
		if c.ok != (err == nil) || err != nil && !errors.Is(err, ErrBadConfig) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && cfg.OnError != InOrder {
			t.Errorf("%s: ranks would meet an error at different batches", name)
		}
	}
	cfg, _ := Config{Name: "train", Dataset: "d", World: &World{ID: "a", Rank: 1, Size: 3}}.resolve(true)
	if rows := cfg.part.Rows(7); rows != (schema.Rows{From: 2, To: 4, Of: 7}) {
		t.Errorf("rank 1 of 3 gets %+v", rows)
	}
}
