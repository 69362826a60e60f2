package picture

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Picture is drawn on a canvas of its size.
type Picture struct {
	width, height vg.Length
	draw          func(draw.Canvas)
}

// dpi of a PNG.
const dpi = 120

// Encode gives the picture in the format that a file's name ends with: .svg or .png.
func (p *Picture) Encode(name string) ([]byte, error) {
	var out bytes.Buffer
	switch strings.ToLower(filepath.Ext(name)) {
	case ".svg":
		c := vgsvg.New(p.width, p.height)
		p.draw(draw.New(c))
		if _, err := c.WriteTo(&out); err != nil {
			return nil, err
		}
	case ".png":
		c := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(p.width, p.height), vgimg.UseDPI(dpi))}
		p.draw(draw.New(c))
		if _, err := c.WriteTo(&out); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%q ends with neither .svg nor .png", name)
	}
	return out.Bytes(), nil
}

// Colours that people who see few of them tell apart (Okabe and Ito).
var (
	ink    = color.RGBA{0x22, 0x22, 0x22, 0xff}
	faint  = color.RGBA{0xdd, 0xdd, 0xdd, 0xff}
	traces = []color.RGBA{
		{0x00, 0x72, 0xb2, 0xff}, {0xd5, 0x5e, 0x00, 0xff}, {0x00, 0x9e, 0x73, 0xff}, {0xcc, 0x79, 0xa7, 0xff},
	}
	labelColors = []color.RGBA{
		{0xbf, 0xd9, 0xec, 0xff}, {0xf6, 0xd3, 0xb8, 0xff}, {0xbf, 0xe6, 0xd8, 0xff}, {0xf2, 0xdc, 0xea, 0xff},
		{0xfb, 0xf3, 0xb0, 0xff}, {0xe0, 0xe0, 0xe0, 0xff},
	}
)

// style of text.
func style(size vg.Length, x, y float64) draw.TextStyle {
	font := plot.DefaultFont
	font.Variant, font.Size = "Sans", size
	return draw.TextStyle{
		Color: ink, Font: font, XAlign: text.XAlignment(x), YAlign: text.YAlignment(y), Handler: plot.DefaultTextHandler,
	}
}

// Table is a picture of the summaries of tensors, one in a row.
func Table(title string, rows []Summary) *Picture {
	const (
		row    = 30 * vg.Millimeter / 2
		margin = 6 * vg.Millimeter
	)
	columns := []struct {
		head string
		at   vg.Length
		text func(*Summary) string
	}{
		{"tensor", 0, func(s *Summary) string { return cut(s.Name, 20) }},
		{"type", 38 * vg.Millimeter, func(s *Summary) string { return s.DType }},
		{"shape", 56 * vg.Millimeter, func(s *Summary) string { return cut(fmt.Sprint(s.Shape), 24) }},
		{"range", 96 * vg.Millimeter, (*Summary).Range},
		{"no numbers", 160 * vg.Millimeter, (*Summary).Gaps},
		{"histogram", 190 * vg.Millimeter, func(*Summary) string { return "" }},
	}
	const histogram = 52 * vg.Millimeter
	height := 2*margin + 16*vg.Millimeter + vg.Length(len(rows))*row
	return &Picture{width: 2*margin + 190*vg.Millimeter + histogram, height: height, draw: func(c draw.Canvas) {
		top := c.Max.Y - margin
		c.FillText(style(11, 0, -1), vg.Point{X: c.Min.X + margin, Y: top}, title)
		top -= 8 * vg.Millimeter
		for _, col := range columns {
			c.FillText(style(9, 0, -1), vg.Point{X: c.Min.X + margin + col.at, Y: top}, col.head)
		}
		top -= 6 * vg.Millimeter
		for i := range rows {
			s := &rows[i]
			line := draw.LineStyle{Color: faint, Width: 0.5}
			c.StrokeLine2(line, c.Min.X+margin, top, c.Max.X-margin, top)
			middle := top - row/2
			for _, col := range columns {
				c.FillText(style(9, 0, -0.5), vg.Point{X: c.Min.X + margin + col.at, Y: middle}, col.text(s))
			}
			bars(c, s.Histogram, vg.Rectangle{
				Min: vg.Point{X: c.Max.X - margin - histogram, Y: top - row + vg.Millimeter},
				Max: vg.Point{X: c.Max.X - margin, Y: top - vg.Millimeter},
			})
			top -= row
		}
	}}
}

// bars are the counts of a histogram in a rectangle.
func bars(c draw.Canvas, counts []int, in vg.Rectangle) {
	top := 1
	for _, n := range counts {
		top = max(top, n)
	}
	width := in.Size().X / vg.Length(max(len(counts), 8))
	for i, n := range counts {
		x, y := in.Min.X+vg.Length(i)*width, in.Min.Y+in.Size().Y*vg.Length(float64(n)/float64(top))
		if n > 0 {
			y = max(y, in.Min.Y+1) // a bar of one value can be seen, too
		}
		c.FillPolygon(traces[0], []vg.Point{
			{X: x, Y: in.Min.Y}, {X: x, Y: y}, {X: x + 0.9*width, Y: y}, {X: x + 0.9*width, Y: in.Min.Y},
		})
	}
	c.StrokeLine2(draw.LineStyle{Color: ink, Width: 0.5}, in.Min.X, in.Min.Y, in.Max.X, in.Min.Y)
}

func cut(text string, most int) string {
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}

// cutMiddle keeps both ends of a text.
func cutMiddle(text string, most int) string {
	r := []rune(text)
	if len(r) <= most {
		return text
	}
	end := (most - 1) / 2
	return string(r[:most-1-end]) + "…" + string(r[len(r)-end:])
}

// nice is the number of 1, 2 or 5 times a power of ten that is closest below v.
func nice(v float64) float64 {
	if !(v > 0) || math.IsInf(v, 0) {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{5, 2} {
		if v >= m*power {
			return m * power
		}
	}
	return power
}
