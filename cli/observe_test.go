package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/metrics"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// role is a probe that says what it is told to.
type role struct{ live, ready error }

func (r role) Live() error  { return r.live }
func (r role) Ready() error { return r.ready }

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true // so that no connection outlives the test
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestProbes(t *testing.T) {
	t.Parallel()
	f := observeFlags{ListenHTTP: ":0"}
	o, err := f.observe(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := o.close(); err != nil {
			t.Error(err)
		}
	}()
	if !strings.HasPrefix(o.address, "127.0.0.1:") {
		t.Fatalf("an address without a host listens at %s", o.address)
	}
	url := "http://" + o.address
	for _, test := range []struct {
		probe       probe
		live, ready int
		why         string
	}{
		{nil, 200, 503, errStarting.Error()},
		{role{}, 200, 200, "ok"},
		{role{ready: errors.New("no connection")}, 200, 503, "no connection"},
		{role{live: errors.New("stuck"), ready: errors.New("stuck")}, 503, 503, "stuck"},
	} {
		o.watch(test.probe)
		if code, body := get(t, url+"/healthz"); code != test.live {
			t.Errorf("%v: /healthz: %d %s", test.probe, code, body)
		}
		if code, body := get(t, url+"/readyz"); code != test.ready || !strings.Contains(body, test.why) {
			t.Errorf("%v: /readyz: %d %s", test.probe, code, body)
		}
	}
	if code, body := get(t, url+"/metrics"); code != 200 || !strings.Contains(body, "go_goroutines") ||
		!strings.Contains(body, `jetbatch_build_info{goversion="`+runtime.Version()+`",version="`+wire.Release+`",wire="`) {
		t.Errorf("/metrics: %d %s", code, body)
	}
	if code, _ := get(t, url+"/debug/pprof/"); code != 404 {
		t.Errorf("/debug/pprof/ without --pprof: %d", code)
	}
}

func TestProfilesWhenAskedFor(t *testing.T) {
	t.Parallel()
	f := observeFlags{ListenHTTP: "127.0.0.1:0", Pprof: true}
	o, err := f.observe(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if code, body := get(t, "http://"+o.address+"/debug/pprof/goroutine?debug=1"); code != 200 || !strings.Contains(body, "goroutine") {
		t.Errorf("%d %s", code, body)
	}
	if err := o.close(); err != nil {
		t.Error(err)
	}
}

func TestObserveFlags(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	o, err := new(observeFlags).observe(t.Context(), log)
	if err != nil || o.registerer() != nil || o.close() != nil {
		t.Errorf("nowhere: %v", err)
	}
	for _, bad := range []observeFlags{{Pprof: true}, {ListenHTTP: "9464"}, {ListenHTTP: "127.0.0.1:99999"}} {
		if _, err := bad.observe(t.Context(), log); !errors.Is(err, errUsage) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// served runs all roles on one registry, and returns the names of the metrics that they have, and what histograms are
// in their wide buckets.
func served(t *testing.T) (names, parts map[string]bool) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(metrics.Build(wire.Release, wire.Version)) // as every process does that is observed
	service, err := embedded.Start(t.Context(), embedded.Config{Registerer: reg}, counting)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	b, err := client.Open[[]byte](ctx, service.Conn(), client.Config{
		Name: "train", Dataset: "counting", Params: testset.Params{N: 20, HoleEvery: 10}, Registerer: reg, Logger: slog.New(slog.DiscardHandler),
		World: &client.World{ID: "run-1", Size: 1, Parts: 1}, // some are of worlds only
	})
	if err != nil {
		t.Fatal(err)
	}
	shared, err := client.Open[[]byte](ctx, service.Conn(), client.Config{
		Name: "shared", Dataset: "counting", Params: testset.Params{N: 20}, Registerer: reg, Logger: slog.New(slog.DiscardHandler),
		Reader: "a", // and some of readers at their own pace
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range b.All(ctx, schema.State{}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names, parts = make(map[string]bool), make(map[string]bool)
	for _, f := range families {
		names[f.GetName()] = true
		if f.GetType() == dto.MetricType_HISTOGRAM { // as Prometheus has it that does not scrape native ones
			for _, part := range []string{"_bucket", "_sum", "_count"} {
				parts[f.GetName()+part] = true
			}
		}
	}
	if problems, err := testutil.GatherAndLint(reg); len(problems) > 0 || err != nil {
		t.Error(problems, err)
	}
	if err := errors.Join(b.Close(), shared.Close(), service.Close()); err != nil {
		t.Fatal(err)
	}
	return names, parts
}

var metricName = regexp.MustCompile(`\bjetbatch_[a-z_]+`)

// mentioned returns the metrics that a text names, without the words that only look like one.
func mentioned(text []byte) map[string]bool {
	names := make(map[string]bool)
	for _, name := range metricName.FindAll(text, -1) {
		names[string(name)] = true
	}
	return names
}

// TestMetricsAreTheDocumentedOnes compares the code with its page, the dashboard and the alerts.
func TestMetricsAreTheDocumentedOnes(t *testing.T) {
	t.Parallel()
	exist, parts := served(t)
	page, err := os.ReadFile("../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := mentioned(page)
	for name := range exist {
		if !documented[name] {
			t.Errorf("docs/METRICS.md does not have %s", name)
		}
	}
	for name := range documented {
		if !exist[name] {
			t.Errorf("docs/METRICS.md has %s, which does not exist", name)
		}
	}
	files := 0
	err = filepath.WalkDir("../deploy/observe", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for name := range mentioned(text) {
			if !exist[name] && !parts[name] {
				t.Errorf("%s has %s, which does not exist", path, name)
			}
		}
		return nil
	})
	if err != nil || files < 5 {
		t.Errorf("%d files, %v", files, err)
	}
}

// TestAlertsHaveARunbook wants an entry of docs/METRICS.md for every alert, and no other.
func TestAlertsHaveARunbook(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile("../deploy/observe/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	var alerts, entries []string
	for _, m := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllSubmatch(rules, -1) {
		alerts = append(alerts, string(m[1]))
	}
	for _, m := range regexp.MustCompile(`(?m)^#+ (Jetbatch\w+)$`).FindAllSubmatch(page, -1) {
		entries = append(entries, string(m[1]))
	}
	slices.Sort(alerts)
	slices.Sort(entries)
	if len(alerts) == 0 || !slices.Equal(alerts, entries) {
		t.Errorf("alerts:  %v\nentries: %v", alerts, entries)
	}
}

// TestDashboardIsWellFormed wants every panel to have a place, a question, and room of its own.
func TestDashboardIsWellFormed(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../deploy/observe/grafana/dashboards/jetbatch.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		UID    string `json:"uid"`
		Panels []struct {
			ID      int    `json:"id"`
			Type    string `json:"type"`
			Title   string `json:"title"`
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&board); err != nil {
		t.Fatal(err)
	}
	if board.UID == "" || len(board.Panels) < 10 {
		t.Fatalf("%q with %d panels", board.UID, len(board.Panels))
	}
	taken := make(map[[2]int]string)
	ids := make(map[int]bool)
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q: %d targets", p.ID, p.Title, len(p.Targets))
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%q lies over %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			if strings.Count(target.Expr, "(") != strings.Count(target.Expr, ")") || !strings.Contains(target.Expr, "jetbatch_") {
				t.Errorf("%q asks %s", p.Title, target.Expr)
			}
		}
	}
}

// unitOf is Grafana's name of the unit of what a query returns.
func unitOf(expr string) string {
	rated, seconds := strings.Contains(expr, "[$__rate_interval]"), strings.Contains(expr, "_seconds")
	switch {
	case rated && strings.Contains(expr, "_bytes_total"):
		return "Bps"
	case rated && strings.Contains(expr, "_seconds_total"): // seconds per second
		return "percentunit"
	case rated && !seconds:
		return "ops"
	case strings.Contains(expr, "_bytes"):
		return "bytes"
	case rated && !strings.Contains(expr, "quantile") && !strings.Contains(expr, " / "): // seconds per second: slots
		return "short"
	case seconds:
		return "s"
	}
	return "short"
}

// TestDashboard wants of every panel one unit, which is that of all its series, and of every query on a native
// histogram one that a Prometheus without these can answer.
func TestDashboard(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../deploy/observe/grafana/dashboards/jetbatch.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			ID          int
			Title, Type string
			GridPos     struct{ X, Y, W, H int }
			FieldConfig struct{ Defaults struct{ Unit string } }
			Targets     []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	perWorker, ids, taken := 0, make(map[int]bool), make(map[[2]int]string)
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s: another panel has its id", p.Title)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[at]; other != "" {
					t.Fatalf("%s lies over %s", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
		for _, target := range p.Targets {
			if strings.Contains(target.LegendFormat, "{{worker}}") {
				perWorker++
			}
			if unit := unitOf(target.Expr); unit != p.FieldConfig.Defaults.Unit {
				t.Errorf("%s: its axis has unit %q, and a series %q: %s", p.Title, p.FieldConfig.Defaults.Unit, unit, target.Expr)
			}
			native := regexp.MustCompile(`_(stage|iterate)_seconds[\[{]`).MatchString(target.Expr)
			if native && !strings.Contains(target.Expr, " or ") {
				t.Errorf("%s: a Prometheus without native histograms shows nothing: %s", p.Title, target.Expr)
			}
		}
	}
	if perWorker < 3 {
		t.Errorf("%d queries by worker", perWorker)
	}
}
