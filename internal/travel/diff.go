package travel

import (
	"bytes"
	"fmt"
	"math"
	"reflect"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

// Diff returns the path from name of the first part in which b, which was decoded from a's encoding, is not a, with
// both values; empty if there is none. It compares what is meant to travel: not fields tagged msgpack:"-". Types that
// encode themselves are compared by their encoding, and by their exported fields. Empty slices and maps equal nil ones.
func Diff(a, b any, name string) string {
	return diff(reflect.ValueOf(a), reflect.ValueOf(b), name)
}

func diff(a, b reflect.Value, path string) string {
	if !a.IsValid() || !b.IsValid() || a.Type() != b.Type() {
		if !a.IsValid() && !b.IsValid() {
			return ""
		}
		return differs(a, b, path)
	}
	if itself := encodesItself(a.Type()); itself && a.Kind() != reflect.Pointer {
		if one, other := encoded(a), encoded(b); !bytes.Equal(one, other) {
			return differs(a, b, path)
		}
		if a.Kind() != reflect.Struct {
			return ""
		}
	}
	switch a.Kind() {
	case reflect.Pointer, reflect.Interface:
		if a.IsNil() || b.IsNil() {
			if a.IsNil() == b.IsNil() {
				return ""
			}
			return differs(a, b, path)
		}
		return diff(a.Elem(), b.Elem(), path)
	case reflect.Struct:
		for i := range a.NumField() {
			f := a.Type().Field(i)
			if name, _ := tagOf(f); name == "-" || !f.IsExported() && !f.Anonymous {
				continue
			}
			if d := diff(a.Field(i), b.Field(i), path+"."+f.Name); d != "" {
				return d
			}
		}
		return ""
	case reflect.Slice, reflect.Array:
		if a.Len() != b.Len() {
			return differs(a, b, path)
		}
		if a.Kind() == reflect.Slice && a.Type().Elem().Kind() == reflect.Uint8 && bytes.Equal(a.Bytes(), b.Bytes()) {
			return ""
		}
		for i := range a.Len() {
			if d := diff(a.Index(i), b.Index(i), fmt.Sprintf("%s[%d]", path, i)); d != "" {
				return d
			}
		}
		return ""
	case reflect.Map:
		if a.Len() != b.Len() {
			return differs(a, b, path)
		}
		for _, key := range a.MapKeys() {
			if d := diff(a.MapIndex(key), b.MapIndex(key), fmt.Sprintf("%s[%v]", path, key)); d != "" {
				return d
			}
		}
		return ""
	case reflect.Float32, reflect.Float64:
		if math.Float64bits(a.Float()) != math.Float64bits(b.Float()) {
			return differs(a, b, path)
		}
		return ""
	case reflect.Func, reflect.Chan, reflect.UnsafePointer:
		return differs(a, b, path)
	}
	if !a.Equal(b) {
		return differs(a, b, path)
	}
	return ""
}

// encoded is the encoding of a value that encodes itself; of one that cannot be had, the error.
func encoded(v reflect.Value) []byte {
	if !v.CanInterface() {
		return nil // of an unexported embedded struct, whose fields are compared
	}
	data, err := msgp.Marshal(v.Interface())
	if err != nil {
		return []byte(err.Error())
	}
	return data
}

func differs(a, b reflect.Value, path string) string {
	return fmt.Sprintf("%s: sent %s, received %s", path, show(a), show(b))
}

// show is a value in a few words.
func show(v reflect.Value) string {
	const most = 60
	if !v.IsValid() {
		return "nothing"
	}
	text := fmt.Sprintf("%+v", v)
	if len(text) > most {
		text = text[:most] + " …"
	}
	return text
}
