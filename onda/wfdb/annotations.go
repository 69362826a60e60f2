package wfdb

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// Annotation is a mark at one sample.
type Annotation struct {
	// Sample counts at the rate that [ParseAnnotations] returns.
	Sample int64
	// Symbol is the usual mnemonic of its type, such as N, V or +.
	Symbol string
	// Text is the auxiliary information, such as (AFIB for a + that begins a rhythm.
	Text string
}

// symbols are the mnemonics of the types of annotation, by number.
var symbols = map[int]string{
	1: "N", 2: "L", 3: "R", 4: "a", 5: "V", 6: "F", 7: "J", 8: "A", 9: "S", 10: "E", 11: "j", 12: "/", 13: "Q", 14: "~",
	16: "|", 18: "s", 19: "T", 20: "*", 21: "D", 22: `"`, 23: "=", 24: "p", 25: "B", 26: "^", 27: "t", 28: "+", 29: "u",
	30: "?", 31: "!", 32: "[", 33: "]", 34: "e", 35: "n", 36: "@", 37: "x", 38: "f", 39: "(", 40: ")", 41: "r",
}

// The numbers that are no types.
const (
	codeNote = 22
	codeSkip = 59
	codeNum  = 60
	codeSub  = 61
	codeChn  = 62
	codeAux  = 63
)

// maxAnnotations bounds what is held of a file: those of every heart beat in 45 days.
const maxAnnotations = 1 << 22

// ParseAnnotations parses an annotation file in the MIT format. rate is that of the annotations, if the file says it,
// and 0 otherwise: that of the record. More than 4 million are ErrFormat.
func ParseAnnotations(data []byte) (notes []Annotation, rate float64, err error) {
	at := int64(0)
	var codes []uint8
	word := func() (int, int, bool) {
		if len(data) < 2 {
			return 0, 0, false
		}
		w := binary.LittleEndian.Uint16(data)
		data = data[2:]
		return int(w >> 10), int(w & 1023), true
	}
	for {
		code, n, ok := word()
		if !ok {
			return nil, 0, bad("annotations without an end")
		}
		switch code {
		case codeSkip:
			if len(data) < 4 {
				return nil, 0, bad("annotations that end in an interval")
			}
			high, low := binary.LittleEndian.Uint16(data), binary.LittleEndian.Uint16(data[2:])
			at += int64(int32(uint32(high)<<16 | uint32(low)))
			data = data[4:]
		case codeNum, codeSub, codeChn:
		case codeAux:
			padded := n + n%2
			if len(data) < padded || len(notes) == 0 {
				return nil, 0, bad("annotations that end in a text, or begin with one")
			}
			text, _, _ := strings.Cut(string(data[:n]), "\x00")
			notes[len(notes)-1].Text = strings.TrimSpace(text)
			data = data[padded:]
		default:
			if code == 0 && n == 0 {
				return about(notes, codes)
			}
			at += int64(n)
			if code == 0 {
				continue // a type that nothing is: its interval counts
			}
			symbol, ok := symbols[code]
			if !ok {
				symbol = strconv.Itoa(code)
			}
			if len(notes) == maxAnnotations {
				return nil, 0, bad("more than %d annotations", maxAnnotations)
			}
			notes, codes = append(notes, Annotation{Sample: at, Symbol: symbol}), append(codes, uint8(code))
		}
	}
}

// The texts at the beginning that say something of the file itself.
const (
	aboutRate        = "## time resolution:"
	aboutDefinitions = "## annotation type definitions"
	aboutEnd         = "## end of definitions"
)

// about takes out notes on the file itself: the rate of its annotations, and names of types of its own.
func about(notes []Annotation, codes []uint8) ([]Annotation, float64, error) {
	rate := 0.0
	defining := false
	names := map[uint8]string{}
	kept, keptCodes := notes[:0], codes[:0]
	for i, note := range notes {
		own := codes[i] == codeNote && note.Sample == 0
		switch {
		case own && strings.HasPrefix(note.Text, aboutRate):
			text := strings.TrimSpace(strings.TrimPrefix(note.Text, aboutRate))
			v, err := strconv.ParseFloat(text, 64)
			if err != nil || !(v >= minRate && v <= maxRate) {
				return nil, 0, bad("annotations of %.40q per second", text)
			}
			rate = v
		case own && note.Text == aboutDefinitions:
			defining = true
		case own && note.Text == aboutEnd:
			defining = false
		case own && defining:
			if f := strings.Fields(note.Text); len(f) >= 2 {
				if code, err := strconv.ParseUint(f[0], 10, 8); err == nil {
					names[uint8(code)] = f[1]
				}
			}
		default:
			kept, keptCodes = append(kept, note), append(keptCodes, codes[i])
		}
	}
	for i := range kept {
		if name, ok := names[keptCodes[i]]; ok {
			kept[i].Symbol = name
		}
	}
	return kept, rate, nil
}
