package onda

import (
	"math"
	"strings"
)

// The units whose multiples are converted, by name and by symbol. A unit that
// is not here is compared as it is written.
var (
	unitNames = map[string]string{
		"volt": "V", "tesla": "T", "ampere": "A", "pascal": "Pa", "ohm": "Ω", "meter": "m", "metre": "m", "gram": "g",
		"second": "s", "hertz": "Hz", "siemens": "S", "newton": "N", "watt": "W", "liter": "L", "litre": "L",
	}
	unitSymbols = map[string]string{
		"V": "V", "T": "T", "A": "A", "Pa": "Pa", "Ω": "Ω", "Ohm": "Ω", "m": "m", "g": "g", "s": "s", "Hz": "Hz",
		"S": "S", "N": "N", "W": "W", "L": "L",
	}
	prefixNames = map[string]int{
		"femto": -15, "pico": -12, "nano": -9, "micro": -6, "milli": -3, "kilo": 3, "mega": 6, "giga": 9,
	}
	prefixSymbols = map[string]int{
		"f": -15, "p": -12, "n": -9, "u": -6, "µ": -6, "μ": -6, "m": -3, "k": 3, "M": 6, "G": 9,
	}
)

// parseUnit is the quantity that a unit measures and the power of ten that the
// unit is of it, such as V and -6 for microvolt, uV and µV.
func parseUnit(unit string) (quantity string, power int, ok bool) {
	unit = strings.TrimSpace(unit)
	if q, ok := unitSymbols[unit]; ok {
		return q, 0, true
	}
	for prefix, power := range prefixSymbols {
		if rest, found := strings.CutPrefix(unit, prefix); found {
			if q, ok := unitSymbols[rest]; ok {
				return q, power, true
			}
		}
	}
	name := strings.ToLower(unit)
	for _, name := range []string{name, strings.TrimSuffix(name, "s")} {
		if q, ok := unitNames[name]; ok {
			return q, 0, true
		}
		for prefix, power := range prefixNames {
			if rest, found := strings.CutPrefix(name, prefix); found {
				if q, ok := unitNames[strings.TrimPrefix(rest, "_")]; ok {
					return q, power, true
				}
			}
		}
	}
	return "", 0, false
}

// unitPower is the power of ten that values in one unit are multiplied with to
// be in the other; not ok if these are not of one quantity.
func unitPower(from, to string) (power int, ok bool) {
	if from == to {
		return 0, true
	}
	of, have, ok := parseUnit(from)
	other, want, also := parseUnit(to)
	return have - want, ok && also && of == other
}

// scaled is v times a power of ten, rounded once: a power of ten of up to 22 is
// a whole float64, its inverse is not.
func scaled(v float64, power int) float64 {
	if power < 0 {
		return v / math.Pow10(-power)
	}
	return v * math.Pow10(power)
}

// inUnit is the signal with its samples decoded in another unit.
func (s Signal) inUnit(unit string, power int) Signal {
	s.Resolution, s.Offset, s.Unit = scaled(s.Resolution, power), scaled(s.Offset, power), unit
	return s
}
