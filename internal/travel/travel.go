// Package travel says which Go types come back from another process as what was sent there. States, jobs and batches
// travel as msgpack, and the codec drops or changes without a word what it cannot express: unexported fields, the types
// inside an interface, pointers that lead to one value.
package travel

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

// ErrType is matched by every error of [Check].
var ErrType = errors.New("type does not travel")

// Check reports the first part of a type that would be lost or changed on its way, by its path from name, such as
// job.Options[].Level. Types that encode and decode themselves are taken at their word.
//
// A pointer may be missing, but it must be the only way to its value: what two pointers share on one side would be two
// values on the other. So pointers in slices, arrays and maps, two pointers to one type, and types that contain
// themselves are refused, save for pointers to numbers, strings and booleans.
func Check(t reflect.Type, name string) error {
	c := checker{pointers: make(map[reflect.Type]string), open: make(map[reflect.Type]bool)}
	if t.Kind() == reflect.Pointer && !encodesItself(t.Elem()) {
		t = t.Elem() // the value itself may be given by a pointer
	}
	return c.check(t, name, false)
}

type checker struct {
	pointers map[reflect.Type]string // where there is a pointer to a type
	open     map[reflect.Type]bool   // structs that the check is inside of
}

func refuse(path string, t reflect.Type, why string) error {
	return fmt.Errorf("%w: %s (%v): %s", ErrType, path, t, why)
}

// check looks at a type at a path; many says that there may be several values there.
func (c *checker) check(t reflect.Type, path string, many bool) error {
	if t.Kind() == reflect.Pointer {
		return c.pointer(t, path, many)
	}
	if encodesItself(t) {
		if !decodesItself(t) {
			return refuse(path, t, "it encodes itself and does not decode itself")
		}
		return promoted(t, path)
	}
	switch t.Kind() {
	case reflect.Interface:
		return refuse(path, t, "an interface does not say which type to decode into: name a type")
	case reflect.Func, reflect.Chan, reflect.UnsafePointer, reflect.Uintptr, reflect.Complex64, reflect.Complex128:
		return refuse(path, t, "values of this kind cannot be sent")
	case reflect.Map:
		if t.Key().Kind() != reflect.String || encodesItself(t.Key()) {
			return refuse(path, t, "the keys of a map must be strings: use strings, or a sorted slice")
		}
		return c.check(t.Elem(), path+"[]", true)
	case reflect.Slice, reflect.Array:
		return c.check(t.Elem(), path+"[]", true)
	case reflect.Struct:
		return c.fields(t, path, many)
	}
	return nil
}

func (c *checker) pointer(t reflect.Type, path string, many bool) error {
	to := t.Elem()
	if to.Kind() == reflect.Pointer {
		return refuse(path, t, "a pointer to a pointer")
	}
	if isPlain(to.Kind()) && !encodesItself(to) {
		return nil
	}
	if many {
		return refuse(path, t, "several pointers may lead to one value, which would be several on arrival: use values")
	}
	if other, ok := c.pointers[to]; ok {
		return refuse(path, t, "it may point to the value of "+other+", and would to another one on arrival: use values")
	}
	c.pointers[to] = path
	return c.check(to, path, false)
}

func isPlain(k reflect.Kind) bool {
	return k == reflect.String || reflect.Bool <= k && k <= reflect.Float64 && k != reflect.Uintptr
}

func (c *checker) fields(t reflect.Type, path string, many bool) error {
	if c.open[t] {
		return refuse(path, t, "it contains its own type, and so maybe itself: use indices into a slice")
	}
	c.open[t] = true
	defer delete(c.open, t)
	names := make(map[string]string)
	for i := range t.NumField() {
		f := t.Field(i)
		at := path + "." + f.Name
		name, how := tagOf(f)
		if name == "-" || f.Name == "_" || f.Name == "_msgpack" {
			continue // the author says so; nothing is in it
		}
		if !f.IsExported() && !(f.Anonymous && f.Type.Kind() == reflect.Struct) {
			return refuse(at, f.Type, `it is not exported, and only exported fields travel: export it, or say msgpack:"-"`)
		}
		if how == "intern" {
			return refuse(at, f.Type, "interned strings are not one encoding per value")
		}
		laid := namesOf(f, name)
		if f.Anonymous && slices.ContainsFunc(laid, func(n string) bool { return names[n] != "" }) {
			laid = []string{name} // the codec does not lay open what would be shadowed
		}
		for _, n := range laid {
			if other, twice := names[n]; twice {
				return refuse(at, f.Type, fmt.Sprintf("%q also names %s, and only one of them travels", n, other))
			}
			names[n] = at
		}
		if err := c.check(f.Type, at, many); err != nil {
			return err
		}
	}
	return nil
}

// tagOf is the name that the codec gives to a field, and the option that changes what it writes.
func tagOf(f reflect.StructField) (name, option string) {
	name, options, _ := strings.Cut(f.Tag.Get("msgpack"), ",")
	for o := range strings.SplitSeq(options, ",") {
		if o == "intern" || o == "noinline" {
			option = o
		}
	}
	if name == "" {
		name = f.Name
	}
	return name, option
}

// namesOf are the names under which a field lies in the encoding of its struct: those of its own fields where the
// codec lays an embedded struct open.
func namesOf(f reflect.StructField, name string) []string {
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if _, option := tagOf(f); !f.Anonymous || option == "noinline" || t.Kind() != reflect.Struct || encodesItself(t) {
		return []string{name}
	}
	var names []string
	for i := range t.NumField() {
		inner := t.Field(i)
		if n, _ := tagOf(inner); n != "-" && (inner.IsExported() || inner.Anonymous) {
			names = append(names, namesOf(inner, n)...)
		}
	}
	return names
}

var (
	encoders = []reflect.Type{
		reflect.TypeFor[msgpack.CustomEncoder](), reflect.TypeFor[msgpack.Marshaler](),
		reflect.TypeFor[encoding.BinaryMarshaler](), reflect.TypeFor[encoding.TextMarshaler](),
	}
	decoders = []reflect.Type{
		reflect.TypeFor[msgpack.CustomDecoder](), reflect.TypeFor[msgpack.Unmarshaler](),
		reflect.TypeFor[encoding.BinaryUnmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](),
	}
)

func encodesItself(t reflect.Type) bool { return implementsOne(t, encoders) }

func decodesItself(t reflect.Type) bool { return implementsOne(t, decoders) }

func implementsOne(t reflect.Type, interfaces []reflect.Type) bool {
	if t.Kind() == reflect.Interface {
		return false // its values may be of any type
	}
	for _, i := range interfaces {
		if t.Implements(i) || reflect.PointerTo(t).Implements(i) {
			return true
		}
	}
	return false
}

// promoted refuses a struct that encodes itself by the method of a type that is embedded in it: that method knows
// nothing of the other fields. Whether it is so is tried: a field that travels changes the bytes.
func promoted(t reflect.Type, path string) error {
	if t.Kind() != reflect.Struct {
		return nil
	}
	embeds := ""
	for i := range t.NumField() {
		if f := t.Field(i); f.Anonymous && encodesItself(f.Type) {
			embeds = f.Name
		}
	}
	if embeds == "" {
		return nil
	}
	without, err := msgp.Marshal(reflect.New(t).Interface())
	if err != nil {
		return nil // the zero value is not for sending
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if name, _ := tagOf(f); !f.IsExported() || f.Anonymous || name == "-" || !isPlain(f.Type.Kind()) {
			continue
		}
		v := reflect.New(t)
		setOne(v.Elem().Field(i))
		with, err := msgp.Marshal(v.Interface())
		if err == nil && bytes.Equal(with, without) {
			return refuse(path+"."+f.Name, f.Type, "its struct is encoded by the method of the embedded "+embeds+
				", which leaves this field out: make "+embeds+" a field with a name")
		}
	}
	return nil
}

// setOne sets a plain value to what is not its zero.
func setOne(v reflect.Value) {
	switch {
	case v.CanInt():
		v.SetInt(1)
	case v.CanUint():
		v.SetUint(1)
	case v.CanFloat():
		v.SetFloat(1)
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.Kind() == reflect.String:
		v.SetString("1")
	}
}
