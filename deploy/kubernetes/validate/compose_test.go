package validate

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

type composeFile struct {
	Services map[string]struct {
		Environment map[string]string
		Volumes     []string
	}
}

func readCompose(t *testing.T, file string) (c composeFile) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(data, &c) // not strict: these are small parts of it
	}
	if err != nil || len(c.Services) == 0 {
		t.Fatalf("%s: %d services, %v", file, len(c.Services), err)
	}
	return c
}

// With users, every service of docker-compose.yml that speaks to NATS has TLS, one key, and the inboxes that the key's
// role may listen to.
func TestEveryComposeServiceHasAKey(t *testing.T) {
	t.Parallel()
	secure := readCompose(t, "../../compose.secure.yml")
	found := 0
	for name, service := range readCompose(t, "../../../docker-compose.yml").Services {
		if service.Environment["JETBATCH_SERVER"] == "" {
			continue
		}
		found++
		with := secure.Services[name]
		role := strings.TrimPrefix(with.Environment["JETBATCH_INBOX_PREFIX"], "_INBOX_")
		var keys []string
		for _, v := range with.Volumes {
			if strings.Contains(v, ".nk:") {
				keys = append(keys, v)
			}
		}
		if len(keys) != 1 || role == "" || !strings.HasSuffix(keys[0], "/"+role+".nk:/etc/jetbatch/role.nk:ro") {
			t.Errorf("%s: keys %v, inboxes of %q", name, keys, role)
		}
		if with.Environment["JETBATCH_NKEY"] != "/etc/jetbatch/role.nk" || with.Environment["JETBATCH_TLS_CA"] == "" ||
			!strings.HasPrefix(with.Environment["JETBATCH_SERVER"], "tls://") {
			t.Errorf("%s: %v", name, with.Environment)
		}
	}
	if found < 7 { // coordinator, worker, trainer, four ranks
		t.Errorf("%d services speak to NATS", found)
	}
}
