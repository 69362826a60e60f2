package picture

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/schema"
)

func tensor[T schema.Element](t *testing.T, values ...T) schema.Tensor {
	t.Helper()
	out, err := schema.NewTensor([]int{len(values)}, values)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSummarize(t *testing.T) {
	t.Parallel()
	nan, inf := math.NaN(), math.Inf(-1)
	for _, c := range []struct {
		t    schema.Tensor
		want Summary
	}{
		{tensor(t, 1.0, nan, 3, inf, 2), Summary{Elements: 5, NaN: 1, Inf: 1, Min: 1, Max: 3, Mean: 2,
			Histogram: []int{0: 1, 12: 1, 23: 1}}},
		{tensor[uint8](t, 3, 3, 5), Summary{Elements: 3, Min: 3, Max: 5, Mean: 11.0 / 3, Histogram: []int{2, 0, 1}}},
		{tensor(t, true, false, true, true), Summary{Elements: 4, Max: 1, Mean: 0.75, Histogram: []int{1, 3}}},
		{tensor[float32](t, 7, 7), Summary{Elements: 2, Min: 7, Max: 7, Mean: 7, Histogram: []int{2}}},
		{tensor(t, nan), Summary{Elements: 1, NaN: 1}},
		{tensor[int64](t), Summary{}},
	} {
		got, err := Summarize("x", c.t)
		if err != nil || got.Elements != c.want.Elements || got.NaN != c.want.NaN || got.Inf != c.want.Inf ||
			got.Min != c.want.Min || got.Max != c.want.Max || math.Abs(got.Mean-c.want.Mean) > 1e-12 ||
			!slices.Equal(got.Histogram, c.want.Histogram) {
			t.Errorf("%+v, want %+v, %v", got, c.want, err)
		}
	}
	wide, err := Summarize("x", tensor(t, -math.MaxFloat64, math.MaxFloat64))
	if err != nil || wide.Histogram[0] != 1 || wide.Histogram[maxBins-1] != 1 {
		t.Errorf("%+v, %v", wide, err)
	}
	if got := Bars([]int{0, 1, 100, 50}); got != " ▁█▄" {
		t.Errorf("%q", got)
	}
}

// Pictures are images that can be read, and say what they have to.
func TestPictures(t *testing.T) {
	t.Parallel()
	rows := []Summary{{Name: "x", DType: "float32", Shape: []int{8, 2}, Histogram: []int{1, 5, 2}}, {Name: "empty"}}
	var wave, gap []float64
	for i := range 5000 {
		wave = append(wave, 100*math.Sin(float64(i)/200))
		gap = append(gap, wave[i])
		if i > 2000 && i < 2600 {
			gap[i] = math.NaN()
		}
	}
	windows := []Window{
		{Title: "window 0", Channels: []string{"fpz-cz", "pz-oz"}, Data: [][]float64{wave, gap}, Unit: "µV", Seconds: 30,
			Labels: []uint8{1, 1, 2}, Text: func(l uint8) string { return []string{"", "Sleep stage W", "N1"}[l] }},
		{Title: "no numbers", Data: [][]float64{{math.NaN(), math.NaN()}, {}, {5}}},
	}
	traces, err := Windows("a batch", windows)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		p    *Picture
		says []string
	}{
		"table":   {Table("a table", rows), []string{"a table", "float32", "[8 2]", "0 NaN", "no numbers"}},
		"windows": {traces, []string{"a batch", "window 0", "fpz-cz", "µV", "seconds", "Sleep stage W", "N1", "samples"}},
	} {
		data, err := c.p.Encode(name + ".SVG")
		if err != nil {
			t.Fatal(err)
		}
		for dec := xml.NewDecoder(bytes.NewReader(data)); ; {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		for _, text := range c.says {
			if !strings.Contains(string(data), text) {
				t.Errorf("%s: no %q", name, text)
			}
		}
		image, err := c.p.Encode(name + ".png")
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := png.Decode(bytes.NewReader(image))
		if err != nil || decoded.Bounds().Dx() < 1000 {
			t.Errorf("%s: %v, %v", name, decoded.Bounds(), err)
		}
	}
	if _, err := traces.Encode("x.pdf"); err == nil {
		t.Error("no error")
	}
}

func TestNice(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]float64{1: 1, 1.9: 1, 2: 2, 4.9: 2, 70: 50, 0.03: 0.02, 0: 1, -1: 1} {
		if got := nice(v); math.Abs(got-want) > 1e-12*want {
			t.Errorf("%v: %v, want %v", v, got, want)
		}
	}
}

// What is too long keeps the ends that tell it from others.
func TestCut(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Sleep stage W": "Sleep…ge W", "rest": "rest", "äöüäöüäöüäö": "äöüäö…öüäö",
	} {
		if got := cutMiddle(text, 10); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if got := cutMiddle("Sleep", 2); got != "S…" {
		t.Errorf("got %q", got)
	}
}

// The trace of a lane leaves room for its name, however many lanes there are.
func TestNamesAboveTraces(t *testing.T) {
	t.Parallel()
	for _, lanes := range []int{1, 2, 12, maxLanes} {
		if share := float64(nameHeight / laneOf(lanes)); share > 0.3 {
			t.Errorf("%d lanes: a name takes %.2f of one", lanes, share)
		}
	}
}
