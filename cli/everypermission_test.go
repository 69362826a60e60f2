package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/jetbatch/jetbatch/deploy"
)

var (
	quoted   = regexp.MustCompile("`([^`]+)`")
	testName = regexp.MustCompile("Test[A-Z][A-Za-z0-9]*")
)

// permissionRows reads the table of docs/SECURITY.md. A key is a role and a permission; the permission to listen to a
// subject begins with "hears ".
func permissionRows(t *testing.T, doc string) map[string]bool {
	t.Helper()
	rows := make(map[string]bool)
	for line := range strings.Lines(doc) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 || !strings.Contains(cells[1], "`") {
			continue
		}
		role, hears := strings.TrimSpace(cells[0]), ""
		if strings.HasPrefix(strings.TrimSpace(cells[1]), "hears ") {
			hears = "hears "
		}
		if strings.TrimSpace(cells[2]) == "" || !testName.MatchString(cells[4]) {
			t.Errorf("without the worst use, or a test: %s", line)
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			key := role + " " + hears + m[1]
			if rows[key] {
				t.Errorf("twice: %s", key)
			}
			rows[key] = true
		}
	}
	return rows
}

// Every permission of every role has a row that says what the worst use of it is, and every row is of a permission.
// Every test that the page names is there.
func TestEveryPermission(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../docs/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := permissionRows(t, string(data))
	s := startSecured(t)
	opts, err := server.ProcessConfigFile(filepath.Join(s.dir, "nats", "nats.conf.test"))
	if err != nil {
		t.Fatal(err)
	}
	if len(opts.Nkeys) != len(deploy.Roles) {
		t.Fatalf("%d users for %d roles", len(opts.Nkeys), len(deploy.Roles))
	}
	for _, user := range opts.Nkeys {
		var role string
		for _, inbox := range user.Permissions.Subscribe.Allow {
			if own, is := strings.CutPrefix(inbox, "_INBOX_"); is {
				role = strings.TrimSuffix(own, ".>")
			}
		}
		for hears, allowed := range map[string][]string{
			"": user.Permissions.Publish.Allow, "hears ": user.Permissions.Subscribe.Allow,
		} {
			for _, subject := range allowed {
				key := role + " " + hears + subject
				if !rows[key] {
					t.Errorf("docs/SECURITY.md does not say what the worst use is: %s", key)
				}
				delete(rows, key)
			}
		}
	}
	for key := range rows {
		t.Errorf("docs/SECURITY.md has a row of no permission: %s", key)
	}

	var tests strings.Builder
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		tests.Write(source)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range testName.FindAllString(string(data), -1) {
		if !strings.Contains(tests.String(), "func "+name+"(") {
			t.Errorf("docs/SECURITY.md names %s, which is not there", name)
		}
	}
}
