package onda

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

// Every parameter has a bound, and the error names the parameter, the bound and
// its reason.
func TestBounds(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, nil).labelled()
	source := m.source()
	many := make([]string, 50_000)
	for i := range many {
		many[i] = fmt.Sprint("channel", i)
	}
	encoding := map[string]uint8{}
	for _, name := range many {
		encoding[name] = 1
	}
	long := strings.Repeat("x", 257)
	wide := newMade(t).add(1, func(s *Signal) { s.Channels, s.SampleRate = many[:4096], 1 }).labelled()
	fast := newMade(t).add(1, func(s *Signal) { s.SampleType, s.SampleRate = "int8", 100_000 }).labelled()
	// A window of one rate is small, and what a filter needs of the other is not.
	two := newMade(t)
	for i, hz := range []float64{100, 30_000} {
		two.add(byte(i+1), func(s *Signal) { s.Channels, s.SampleRate = many[:40], hz })
	}
	two.labelled()
	for name, c := range map[string]struct {
		m    *made
		p    Params
		says []string
	}{
		"batch_size": {m, Params{BatchSize: 30_000_000},
			[]string{"batch_size is 30000000", "1 to 7500", "one message"}},
		"label_duration":   {m, Params{LabelDuration: 2}, []string{"label duration 2ns", "1µs"}},
		"label_rate":       {m, Params{LabelRate: math.NaN()}, []string{"label rate NaN", "1e6"}},
		"label_rate, high": {m, Params{LabelRate: math.Inf(1)}, []string{"label rate +Inf"}},
		"batch_duration": {m, Params{BatchDuration: Duration(math.MaxInt64)},
			[]string{"batch_duration is", "spans end there"}},
		"stride": {m, Params{Mode: ModeEpochs, Stride: Duration(math.MaxInt64)},
			[]string{"stride is", "spans end there"}},
		"round_to": {m, Params{RoundTo: Duration(2 * time.Hour)},
			[]string{"round_to is 2h0m0s", "0s to 1h0m0s"}},
		"n_channels": {m, Params{NChannels: 1 << 40}, []string{"n_channels", "0 to 4096"}},
		"zero_missing": {m, Params{Selector: "zero_missing", Channels: many},
			[]string{"channels is 50000 names long", "4096"}},
		"channels": {m, Params{Channels: []string{long}}, []string{"channels is a name of 257 bytes", "256"}},
		"encoding": {m, Params{Encoding: encoding}, []string{"encoding is 50000 names long"}},
		"ignore":   {m, Params{Ignore: many}, []string{"ignore is 50000 names long"}},
		"class_weights": {m, Params{ClassWeights: map[string]float64{long: 1}},
			[]string{"class_weights is a name"}},
		"sensor_type": {m, Params{SensorType: many}, []string{"sensor_type is 50000"}},
		"channel_map": {m, Params{ChannelMap: map[string][]string{"a": many}},
			[]string{"channel_map of a is 50000"}},
		"aliases": {m, Params{ChannelMap: map[string][]string{"a": many[:3000], "b": many[3000:6000]}},
			[]string{"channel_map is 6000"}},
		"label_column": {m, Params{LabelColumn: long}, []string{"label_column"}},
		"split": {m, Params{Split: &Split{Use: "a", Parts: make([]Part, 5000)}},
			[]string{"split.parts is 5000"}},
		"split.column": {m, Params{Split: &Split{Use: "a", Column: long}}, []string{"split.column"}},
		"signals": {m, Params{Signals: strings.Repeat("x", 5000)},
			[]string{"signals is 5000 bytes long", "4096"}},
		"channels in jobs": {wide, Params{Channels: many[:4096], BatchSize: 30},
			[]string{"batch_size is 30, for jobs of", "up to 17", "one message"}},
		"drawn in jobs":     {wide, Params{NChannels: 4000, BatchSize: 30}, []string{"for jobs of"}},
		"bytes of a window": {wide, Params{Channels: many[:1], BatchDuration: Duration(100 * time.Second)}, nil},
		"bytes of windows": {fast, Params{BatchDuration: Duration(100 * time.Second), BatchSize: 1},
			[]string{"batch_duration is 1m40s", "128 MiB"}},
		"bytes of a batch": {fast, Params{BatchDuration: Duration(50 * time.Second), BatchSize: 100},
			[]string{"batch_size is 100, for batches of", "1 GiB"}},
		"bytes of a filter's inputs": {two, Params{Resample: 1, BatchDuration: Duration(time.Second), BatchSize: 1},
			[]string{"batch_duration is 1s, ", id(2).String(), "128 MiB"}},
		"bytes of another rate": {two, Params{Resample: 100, BatchDuration: Duration(time.Second), BatchSize: 1}, nil},
		"as much as goes in":    {m, Params{BatchSize: 7500}, nil},
	} {
		src := source
		if c.m != m {
			src = c.m.source()
		}
		_, err := New(t.Context(), c.p, Config{Source: src})
		if c.says == nil {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, ErrParams) {
			t.Errorf("%s: got %v", name, err)
			continue
		}
		for _, text := range c.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v does not say %q", name, err, text)
			}
		}
	}
}

// The largest job that parameters allow fits a message, as it is encoded.
func TestJobsFitAMessage(t *testing.T) {
	t.Parallel()
	names := make([]string, 100)
	for i := range names {
		names[i] = fmt.Sprintf("%0256d", i)
	}
	for _, c := range []struct {
		p        Params
		channels []string
	}{
		{Params{BatchSize: maxBatchSize}, []string{"a"}},
		{Params{BatchSize: 3800 / 100, Channels: names}, names},
		{Params{BatchSize: 450, NChannels: 8}, names},
	} {
		m := newMade(t).add(1, func(s *Signal) {
			s.Channels, s.Span = c.channels, Span{maxTime - 100e9, maxTime}
		}).labelled()
		d := m.must(c.p)
		job, _, err := d.Next(d.start)
		if err != nil {
			t.Fatal(err)
		}
		data, err := msgp.Marshal(job)
		if err != nil || len(data) > maxJobBytes {
			t.Errorf("%d windows make a job of %d bytes, %v", len(job.Items), len(data), err)
		}
		// The estimate is not far off, either.
		items := maxJobBytes / len(data) * len(job.Items)
		t.Logf("%d bytes for %d items; %d would fit", len(data), len(job.Items), items)
	}
}

func TestZeroMissingNeedsSomething(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, nil).add(2, func(s *Signal) { s.Channels = []string{"p", "q"} }).labelled()
	_, err := m.open(Params{Selector: "zero_missing", Channels: []string{"a", "z"}})
	mention(t, err, ErrChannels, id(2).String())
	m.must(Params{Selector: "zero_missing", Channels: []string{"a", "p"}})
}
