package owner

import (
	"fmt"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// answers are those that must not go out unless this coordinator owns the batcher still: a refusal is only right if no
// other coordinator has given meanwhile what is refused here.
type answers struct {
	out        *effects
	doubtful   []Effect // to be confirmed by the Confirm after the one under way
	confirming []Effect // to be confirmed by the one under way; nil for none under way
}

// confirm lets an answer go out once the record has been read and still names this coordinator.
func (a *answers) confirm(reply Effect) {
	a.doubtful = append(a.doubtful, reply)
	a.next()
}

func (a *answers) next() {
	if a.confirming == nil && len(a.doubtful) > 0 {
		a.confirming, a.doubtful = a.doubtful, nil
		a.out.emit(Confirm{})
	}
}

// confirmed lets the answers go that waited for this word. It reports true when the record names another owner than
// self: then redirect answers them.
func (a *answers) confirmed(self, batcher string, e Confirmed) (deposed bool) {
	switch {
	case e.Outcome != Done:
		refuse(a.out, a.confirming, unavailable("record of batcher %s: %s", batcher, e.Reason))
	case e.Owner == self || e.Owner == "": // without a record there is only what is known here
		*a.out = append(*a.out, a.confirming...)
	default:
		return true
	}
	a.confirming = nil
	a.next()
	return false
}

// redirect tells all that wait to ask again.
func (a *answers) redirect() {
	refuse(a.out, a.confirming, changingHands)
	refuse(a.out, a.doubtful, changingHands)
	a.confirming, a.doubtful = nil, nil
}

// refuse sends a fault in the place of answers. A credit is said again by itself.
func refuse(out *effects, replies []Effect, fault *schema.Fault) {
	for _, reply := range replies {
		switch r := reply.(type) {
		case ReplySeat:
			out.emit(ReplySeat{r.Token, wire.SeatReply{Fault: fault}})
		case ReplyStop:
			out.emit(ReplyStop{r.Token, wire.StopReply{Fault: fault}})
		}
	}
}

// changingHands is answered to requests that a coordinator cannot carry out any more.
var changingHands = &schema.Fault{Code: schema.CodeUnavailable, Message: "the batcher is changing hands"}

func unavailable(format string, args ...any) *schema.Fault {
	return faultf(schema.CodeUnavailable, format, args...)
}

func faultf(code, format string, args ...any) *schema.Fault {
	return &schema.Fault{Code: code, Message: fmt.Sprintf(format, args...)}
}
