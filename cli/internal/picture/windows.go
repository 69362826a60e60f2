package picture

import (
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Window is one window of a batch: traces over time and labels below them.
type Window struct {
	Title string
	// Channels names the rows of Data.
	Channels []string
	Data     [][]float64
	// Unit of Data; empty for unknown.
	Unit string
	// Seconds it lasts; 0 for unknown, and then the axis counts samples.
	Seconds float64
	// Labels divide the window evenly; Text says what each is, such as a name.
	Labels []uint8
	Text   func(label uint8) string
}

// maxLanes is how many channels are drawn.
const maxLanes = 32

// The heights of the parts of a window.
const (
	windowWidth = 250 * vg.Millimeter
	laneHeight  = 17 * vg.Millimeter
	frameHeight = 32 * vg.Millimeter
	nameHeight  = 3.2 * vg.Millimeter // above a trace, which never reaches into it
)

// laneOf is how high each of some lanes is.
func laneOf(lanes int) vg.Length { return min(laneHeight, 400*vg.Millimeter/vg.Length(max(lanes, 1))) }

// Windows is a picture of windows, one below the other.
func Windows(title string, windows []Window) (*Picture, error) {
	const head = 9 * vg.Millimeter
	height := head
	plots := make([]*plot.Plot, len(windows))
	heights := make([]vg.Length, len(windows))
	for i := range windows {
		var err error
		if plots[i], err = windows[i].plot(); err != nil {
			return nil, err
		}
		lanes := min(len(windows[i].Data), maxLanes)
		heights[i] = frameHeight + vg.Length(lanes)*laneOf(lanes) + laneHeight/2
		height += heights[i]
	}
	return &Picture{width: windowWidth, height: height, draw: func(c draw.Canvas) {
		c.FillText(style(11, 0, -1), vg.Point{X: c.Min.X + 4*vg.Millimeter, Y: c.Max.Y - 3*vg.Millimeter}, title)
		top := c.Max.Y - head
		for i, p := range plots {
			part := c
			part.Min.Y, part.Max.Y = top-heights[i], top
			p.Draw(draw.Crop(part, 3*vg.Millimeter, -6*vg.Millimeter, vg.Millimeter, -vg.Millimeter))
			top -= heights[i]
		}
	}}, nil
}

// strip is the height of the labels, in lanes.
const strip = 0.5

// plot draws channel i below height lanes-i, its name above its trace, and the labels below 0.
func (w *Window) plot() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = cut(w.Title, 110), "seconds", w.Unit
	for _, s := range []*draw.TextStyle{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle,
		&p.X.Tick.Label, &p.Y.Tick.Label} {
		s.Font.Variant, s.Font.Size, s.Color = "Sans", 9, ink
	}
	p.X.Tick.Label.Font.Size, p.Y.Tick.Label.Font.Size = 8, 8
	p.Title.Padding = vg.Millimeter
	shown := w.Data[:min(len(w.Data), maxLanes)]
	if hidden := len(w.Data) - len(shown); hidden > 0 {
		p.Title.Text += fmt.Sprintf(" (and %d channels more)", hidden)
	}
	seconds := w.Seconds
	if seconds <= 0 {
		p.X.Label.Text = "samples"
		for _, row := range shown {
			seconds = max(seconds, float64(len(row)))
		}
	}
	room := 0.96 - float64(nameHeight/laneOf(len(shown))) // of a lane, for its trace
	span := w.span(shown) / room
	var ticks []plot.Tick
	for i, row := range shown {
		middle := float64(len(shown)-i-1) + 0.02 + room/2
		center := middleOf(row)
		points := thinned(row, seconds, func(v float64) float64 { return middle + (v-center)/span })
		for _, piece := range points {
			line, err := plotter.NewLine(piece)
			if err != nil {
				return nil, err
			}
			line.Color, line.Width = traces[i%len(traces)], 0.6
			p.Add(line)
		}
		ticks = append(ticks, laneTicks(middle, center, span, room/2, len(shown))...)
		name := fmt.Sprint(i)
		if i < len(w.Channels) {
			name = w.Channels[i]
		}
		text, err := plotter.NewLabels(plotter.XYLabels{
			XYs: plotter.XYs{{X: 0.003 * seconds, Y: float64(len(shown)-i) - 0.02}}, Labels: []string{cut(name, 40)},
		})
		if err != nil {
			return nil, err
		}
		text.TextStyle[0] = style(8, 0, -1)
		p.Add(text)
	}
	if err := w.strip(p, seconds); err != nil {
		return nil, err
	}
	p.X.Min, p.X.Max = 0, seconds
	p.Y.Min, p.Y.Max = 0, max(float64(len(shown)), 1)
	if len(w.Labels) > 0 {
		p.Y.Min = -strip
	}
	p.Y.Tick.Marker = plot.ConstantTicks(ticks)
	return p, nil
}

// span is how many units the trace of a lane is high: alike for all channels of a window, so that they can be compared.
func (w *Window) span(rows [][]float64) float64 {
	widest := 0.0
	for _, row := range rows {
		lo, hi := rangeOf(row)
		widest = max(widest, hi-lo)
	}
	if widest == 0 || math.IsInf(widest, 0) {
		return 1
	}
	return widest
}

func rangeOf(row []float64) (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for _, v := range row {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	if lo > hi {
		return 0, 0
	}
	return lo, hi
}

func middleOf(row []float64) float64 {
	lo, hi := rangeOf(row)
	return lo/2 + hi/2
}

// laneTicks are round numbers within a lane, up to reach of its height from the middle of its trace: three or so, fewer
// where there are many lanes.
func laneTicks(middle, center, span, reach float64, lanes int) (ticks []plot.Tick) {
	step := nice(span / 3)
	if lanes > 12 {
		step = nice(span / 2)
	}
	for k := math.Ceil((center - reach*span) / step); k*step <= center+reach*span; k++ {
		ticks = append(ticks, plot.Tick{
			Value: middle + (k*step-center)/span, Label: fmt.Sprintf("%.6g", k*step+0), // +0 makes -0 a 0
		})
		if len(ticks) > 8 {
			break // the numbers are too large for their range
		}
	}
	return ticks
}

// maxPoints of a trace are drawn: of more, the lowest and highest of each stretch.
const maxPoints = 2000

// thinned are the points of a trace, in pieces where a value is no number.
func thinned(row []float64, seconds float64, y func(float64) float64) (pieces []plotter.XYs) {
	var piece plotter.XYs
	end := func() {
		if len(piece) > 0 {
			pieces = append(pieces, piece)
		}
		piece = nil
	}
	at := func(i int) float64 { return seconds * float64(i) / float64(len(row)) }
	step := max(1, 2*len(row)/maxPoints)
	for from := 0; from < len(row); from += step {
		part := row[from:min(from+step, len(row))]
		lowest, highest := -1, -1
		for i, v := range part {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				continue
			}
			if lowest < 0 || v < part[lowest] {
				lowest = i
			}
			if highest < 0 || v > part[highest] {
				highest = i
			}
		}
		if lowest < 0 {
			end()
			continue
		}
		for _, i := range []int{min(lowest, highest), max(lowest, highest)} {
			if n := len(piece); n == 0 || piece[n-1].X < at(from+i) {
				piece = append(piece, plotter.XY{X: at(from + i), Y: y(part[i])})
			}
		}
	}
	end()
	return pieces
}

// strip draws the labels as a row of boxes, of which like neighbours are one.
func (w *Window) strip(p *plot.Plot, seconds float64) error {
	n := len(w.Labels)
	for from := 0; from < n; {
		to := from + 1
		for to < n && w.Labels[to] == w.Labels[from] {
			to++
		}
		x0, x1 := seconds*float64(from)/float64(n), seconds*float64(to)/float64(n)
		box, err := plotter.NewPolygon(plotter.XYs{{X: x0, Y: -strip}, {X: x0, Y: 0}, {X: x1, Y: 0}, {X: x1, Y: -strip}})
		if err != nil {
			return err
		}
		box.Color = color.Color(labelColors[int(w.Labels[from])%len(labelColors)])
		box.LineStyle = draw.LineStyle{Color: color.White, Width: 0.8}
		p.Add(box)
		label := fmt.Sprint(w.Labels[from])
		if w.Text != nil {
			label = w.Text(w.Labels[from])
		}
		// A label takes about a hundredth of the width for each letter. Both of its ends stay, since labels of one kind
		// often begin alike.
		if room := int(100 * float64(to-from) / float64(n)); room >= 2 {
			text, err := plotter.NewLabels(plotter.XYLabels{
				XYs: plotter.XYs{{X: (x0 + x1) / 2, Y: -strip / 2}}, Labels: []string{cutMiddle(label, room)},
			})
			if err != nil {
				return err
			}
			text.TextStyle[0] = style(8, -0.5, -0.5)
			p.Add(text)
		}
		from = to
	}
	return nil
}
