package wire

import (
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

// AppendPayload appends the payload of b, what a materialized batch is on the wire, to dst: a [schema.Batch] in its own
// form, a []byte as it is, anything else in canonical msgpack. It goes by the static type B alone, named types of those
// two are "anything else". On an error it returns dst as it was.
func AppendPayload[B any](dst []byte, b B) ([]byte, error) {
	switch p := any(&b).(type) {
	case *schema.Batch:
		return AppendBatch(dst, *p)
	case *[]byte:
		return append(dst, *p...), nil
	default:
		return msgp.Append(dst, p)
	}
}

// DecodePayload is the inverse of [AppendPayload]. For the types that [PayloadAliases] names the result is a view of
// payload, to be read and not written, and valid while payload is.
func DecodePayload[B any](payload []byte) (B, error) {
	var b B
	var err error
	switch p := any(&b).(type) {
	case *schema.Batch:
		*p, err = DecodeBatch(payload)
	case *[]byte:
		*p = payload[:len(payload):len(payload)]
	default:
		err = msgp.Unmarshal(payload, p)
	}
	if err != nil {
		return *new(B), err
	}
	return b, nil
}

// PayloadAliases reports whether a B that [DecodePayload] returns is a view of the payload: for [schema.Batch] and
// []byte. The payload of any other B may be reused as soon as it is decoded.
func PayloadAliases[B any]() bool {
	switch any((*B)(nil)).(type) {
	case *schema.Batch, *[]byte:
		return true
	default:
		return false
	}
}
