package owner

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// show is an effect as scripts have it; empty for those that only speak to people.
func (s *script) show(e Effect) string {
	var b bytes.Buffer
	say := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	switch e := e.(type) {
	case Record:
		r := e.Record
		say("record at %d: %s gen=%s seat=%d reader=%s request=%s taken=%d%s floor=%d/%s", e.Revision, r.Phase,
			r.Gen, r.Seat, r.Reader, r.Request, r.Taken, inAll(r), r.Floor, r.FloorState)
		if r.Origin != "" {
			say(" origin=%s", r.Origin)
		}
		if r.Spec.Version != 1 {
			say(" version=%d", r.Spec.Version)
		}
		if r.Accepted != "" {
			say(" accepted=%s", r.Accepted)
		}
		if r.Verdict != nil {
			say(" verdict=%d", r.Verdict.Seq)
		}
		if r.Error != nil {
			say(" error=%s", r.Error.Code)
		}
		if r.Holes > 0 {
			say(" holes=%d", r.Holes)
		}
		for _, m := range r.Members {
			say(" %s", memberText(m))
		}
	case Retire:
		say("retire at %d", e.Revision)
	case Open:
		say("open #%d %s%s", e.Serial, e.Spec.Dataset, e.Spec.Params)
	case Compare:
		say("compare #%d with %s", e.Serial, e.From)
	case Rebase:
		say("rebase %s of %s on #%d", e.State, e.From, e.Serial)
	case Release:
		say("release #%d", e.Serial)
	case FirstState:
		say("begin #%d", e.Serial)
	case Make:
		say("make %s", strings.Join(e.Gens, " "))
	case Discard:
		say("discard %s", e.Gen)
	case Feed:
		say("feed %s from #%d", e.Gen, e.Serial)
	case Demand:
		say("demand %d jobs from state %s", e.N, e.State)
	case Publish:
		say("publish %d", e.First)
		if e.N > 1 {
			say(" to %d", e.First+uint64(e.N)-1)
		}
		if e.Again {
			say(" again")
		}
	case Backup:
		say("backup %d", e.Seq)
	case Forget:
		say("forget above %d", e.Keep)
	case Cancel:
		say("cancel %d to %d", e.From, e.To-1)
	case Purge:
		say("purge %d to %d", e.From+1, e.To)
	case Remove:
		say("remove %d", e.Lost[0].Seq)
	case Look:
		say("look at %s for %s", e.Gen, [...]string{"resume", "repair", "room", "sweep", "the last time"}[e.For])
	case Probe:
		say("probe %s", e.Gen)
	case StoreVerdict:
		say("store verdict %d: %v", e.Result.Seq, e.Result.Kind)
	case Announce:
		say("announce %s", e.Lane.Gen)
		if e.Lane.Over {
			say(" over")
		}
		if e.Lane.Unasked {
			say(" unasked")
		}
		if kind, _, _ := strings.Cut(e.Lane.Kind, "-w"); kind != "count-v1" {
			say(" as %s", kind)
		}
	case Notify:
		say("notify %s seat %d %s", e.Reply.Gen, e.Reply.Seat, e.Reply.Phase)
		if r := e.Reply; r.World != "" && r.Reader != "" {
			what := fmt.Sprint("rank ", r.Rank.Rank)
			if r.Name != "" {
				what = r.Name
			}
			say(" %s is %s", what, r.Reader)
		}
		if w := e.Reply.Trouble; strings.Contains(w, "other data") {
			say(" (%s)", w)
		}
	case ReplySeat:
		say("reply %d: ", e.Token)
		if f := e.Reply.Fault; f != nil {
			say("%s: %s", f.Code, f.Message)
		} else {
			say("%s seat %d %s position %d state %s held %v", e.Reply.Gen, e.Reply.Seat, e.Reply.Phase, e.Reply.Position, e.Reply.State.Data, e.Reply.Held)
		}
		if origin := e.Reply.State.Origin; origin != "" {
			say(" origin=%s", origin)
		}
		for _, warning := range e.Reply.Warnings {
			say(" (%s)", warning)
		}
	case ReplyStop:
		say("reply %d: ", e.Token)
		switch {
		case e.Reply.Fault != nil:
			say("%s: %s", e.Reply.Fault.Code, e.Reply.Fault.Message)
		case e.Reply.Error != nil:
			say("stopped, after %s", e.Reply.Error.Code)
		default:
			say("stopped")
		}
	case ReplyCredit:
		say("reply %d: %s seat %d %s", e.Token, e.Reply.Gen, e.Reply.Seat, e.Reply.Phase)
		if r := e.Reply; r.World != "" {
			say(" %s", r.Reader)
		}
		if f := e.Reply.Error; f != nil && e.Reply.World != "" {
			say(" (%s: %s)", f.Code, f.Message)
		}
		if e.Reply.Behind != "" {
			say(" (%s)", e.Reply.Behind)
		}
	case Confirm, Ready, Halt:
		say("%s", strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", e), "owner.")))
	}
	return b.String()
}

// inAll is a record's total where that is not what was taken in its generation.
func inAll(r wire.Record) string {
	if r.Total == r.Taken {
		return ""
	}
	return fmt.Sprint("/", r.Total)
}

// memberText is a slot as scripts have it: reader/seat, and what else is to be said of it.
func memberText(m wire.Member) string {
	text := fmt.Sprintf("%s/%d", m.Reader, m.Seat)
	if m.Name != "" {
		text = m.Name + ":" + text
	}
	if m.Placed && !m.Seated {
		text += "+"
	}
	if m.Seated {
		text += "*"
	}
	if m.Left {
		text += "-"
	}
	return text
}
