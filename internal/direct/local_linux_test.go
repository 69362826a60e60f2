package direct

import (
	"net"
	"os"
	"testing"
)

// Any process may take an abstract name before a worker does. What listens there as another user hears no attempt's
// name.
func TestLocalListenerOfAnotherUser(t *testing.T) {
	t.Parallel()
	local, err := ListenLocal("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	conn, err := net.Dial("unix", localName("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	self := uint32(os.Geteuid())
	if uid, err := listensAs(conn.(*net.UnixConn)); uid != self || err != nil {
		t.Errorf("user %d, %v; this is %d", uid, err, self)
	}
	for uid, want := range map[uint32]bool{self: true, 0: true, self + 1: false} {
		if got := isTrusted(uid); got != want {
			t.Errorf("user %d: %v", uid, got)
		}
	}
}
