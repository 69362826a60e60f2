package wire

// TraceHeader is the header of jobs and results that has the trace context of the Take that let the job out, as
// https://www.w3.org/TR/trace-context/ defines it. Its companion tracestate is not passed on.
const TraceHeader = "traceparent"

// traceLen is the length of a traceparent of version 00, the only one there is.
const traceLen = 2 + 1 + 32 + 1 + 16 + 1 + 2

// Traceparent returns s if it is a W3C traceparent of version 00, and else the empty string, as the standard has
// receivers ignore what they cannot read. What it returns is safe to put into a header.
func Traceparent(s string) string {
	if len(s) != traceLen || s[:3] != "00-" || s[35] != '-' || s[52] != '-' ||
		!lowerHex(s[3:35]) || !lowerHex(s[36:52]) || !lowerHex(s[53:]) || zeros(s[3:35]) || zeros(s[36:52]) {
		return ""
	}
	return s
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func zeros(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return false
		}
	}
	return true
}
