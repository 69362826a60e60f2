package main

import (
	"image/color"
	"io"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// Curve is how the training went.
type Curve struct {
	Loss, Accuracy []float32 // of each step's batch
	Validation     []Point
}

// Point is an evaluation.
type Point struct {
	Step           int
	Loss, Accuracy float64
	OneAnswer      float64 // accuracy of one answer for all windows
}

func (c *Curve) add(loss, accuracy float32) {
	c.Loss, c.Accuracy = append(c.Loss, loss), append(c.Accuracy, accuracy)
}

// mean of the last n values, or of all if there are fewer.
func mean(values []float32, n int) float64 {
	values = values[max(0, len(values)-n):]
	sum := 0.0
	for _, v := range values {
		sum += float64(v)
	}
	return sum / float64(max(1, len(values)))
}

// Colours that people who see few of them tell apart (Okabe and Ito).
var (
	faint  = color.RGBA{0xcc, 0xdd, 0xee, 0xff}
	blue   = color.RGBA{0x00, 0x72, 0xb2, 0xff}
	orange = color.RGBA{0xd5, 0x5e, 0x00, 0xff}
)

// Draw writes a PNG with the loss above and the accuracy below, step by step: batches, their mean over some steps, and
// the recordings that were not trained on.
func (c *Curve) Draw(path string, over int) error {
	losses, err := panel("loss", c.Loss, over, c.Validation, func(p Point) float64 { return p.Loss })
	if err != nil {
		return err
	}
	losses.Title.Text = "Loss and accuracy of windows"
	losses.Y.Min, losses.X.Label.Text = 0, ""
	accuracies, err := panel("accuracy", c.Accuracy, over, c.Validation, func(p Point) float64 { return p.Accuracy })
	if err != nil {
		return err
	}
	accuracies.Y.Max = 1
	accuracies.Legend = plot.NewLegend() // its lines are those above
	accuracies.Legend.XOffs = -2 * vg.Millimeter
	for _, e := range c.Validation[:min(1, len(c.Validation))] {
		f := plotter.NewFunction(func(float64) float64 { return e.OneAnswer })
		f.Color, f.Dashes = orange, []vg.Length{3, 3}
		accuracies.Add(f)
		accuracies.Legend.Add("validation, one answer for all", f)
	}

	img := vgimg.NewWith(vgimg.UseWH(20*vg.Centimeter, 16*vg.Centimeter), vgimg.UseDPI(120))
	rows := [][]*plot.Plot{{losses}, {accuracies}}
	tiles := draw.Tiles{Rows: 2, Cols: 1, PadTop: 2 * vg.Millimeter, PadBottom: 2 * vg.Millimeter,
		PadLeft: 2 * vg.Millimeter, PadRight: 4 * vg.Millimeter, PadY: 3 * vg.Millimeter}
	for i, canvases := range plot.Align(rows, tiles, draw.New(img)) {
		rows[i][0].Draw(canvases[0])
	}
	return replace(path, func(w io.Writer) error {
		_, err := vgimg.PngCanvas{Canvas: img}.WriteTo(w)
		return err
	})
}

func panel(title string, each []float32, over int, evaluations []Point, of func(Point) float64) (*plot.Plot, error) {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = "step", title
	p.Legend.Top, p.Legend.XOffs = true, -2*vg.Millimeter
	p.Add(plotter.NewGrid())
	var batches, means, validation plotter.XYs
	for i, v := range each {
		batches = append(batches, plotter.XY{X: float64(i + 1), Y: float64(v)})
		means = append(means, plotter.XY{X: float64(i + 1), Y: mean(each[:i+1], over)})
	}
	for _, e := range evaluations {
		validation = append(validation, plotter.XY{X: float64(e.Step), Y: of(e)})
	}
	for _, line := range []struct {
		name   string
		points plotter.XYs
		color  color.Color
		width  vg.Length
	}{{"batch", batches, faint, 1}, {"mean of batches", means, blue, 1.5}, {"validation", validation, orange, 1.5}} {
		if len(line.points) == 0 {
			continue
		}
		l, err := plotter.NewLine(line.points)
		if err != nil {
			return nil, err
		}
		l.Color, l.Width = line.color, line.width
		p.Add(l)
		p.Legend.Add(line.name, l)
	}
	p.X.Min = 0
	return p, nil
}
