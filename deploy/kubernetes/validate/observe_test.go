package validate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const observe = "../../observe"

// rules is what of Prometheus' rule files alerts.yml may use.
type rules struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []struct {
			Alert       string            `json:"alert"`
			Expr        string            `json:"expr"`
			For         string            `json:"for"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"rules"`
	} `json:"groups"`
}

// scrapes is what of Prometheus' configuration prometheus.yml may use.
type scrapes struct {
	Global struct {
		ScrapeInterval         string `json:"scrape_interval"`
		EvaluationInterval     string `json:"evaluation_interval"`
		ScrapeNativeHistograms bool   `json:"scrape_native_histograms"`
	} `json:"global"`
	RuleFiles     []string `json:"rule_files"`
	ScrapeConfigs []struct {
		JobName      string `json:"job_name"`
		DNSSDConfigs []struct {
			Names           []string `json:"names"`
			Type            string   `json:"type"`
			Port            int      `json:"port"`
			RefreshInterval string   `json:"refresh_interval"`
		} `json:"dns_sd_configs"`
	} `json:"scrape_configs"`
}

func decodeFile(t *testing.T, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(data, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func TestAlertRules(t *testing.T) {
	t.Parallel()
	var r rules
	decodeFile(t, filepath.Join(observe, "alerts.yml"), &r)
	seen := make(map[string]bool)
	for _, g := range r.Groups {
		for _, rule := range g.Rules {
			switch severity := rule.Labels["severity"]; {
			case rule.Alert == "" || seen[rule.Alert]:
				t.Errorf("alert %q has no name, or another's", rule.Alert)
			case severity != "critical" && severity != "warning" && severity != "info":
				t.Errorf("%s: severity %q", rule.Alert, severity)
			case rule.Annotations["summary"] == "":
				t.Errorf("%s says nothing", rule.Alert)
			case strings.Count(rule.Expr, "(") != strings.Count(rule.Expr, ")"):
				t.Errorf("%s: %s", rule.Alert, rule.Expr)
			}
			seen[rule.Alert] = true
		}
	}
	if len(seen) == 0 {
		t.Error("no alerts")
	}
}

// TestAlertsAreTested wants a test in which each alert fires, and one in which it does not. promtool runs them.
func TestAlertsAreTested(t *testing.T) {
	t.Parallel()
	var r rules
	decodeFile(t, filepath.Join(observe, "alerts.yml"), &r)
	var tested struct {
		Tests []struct {
			AlertRuleTest []struct {
				Alertname string `json:"alertname"`
				ExpAlerts []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}
	data, err := os.ReadFile(filepath.Join(observe, "alerts_test.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, &tested); err != nil { // not strict: promtool is
		t.Fatal(err)
	}
	fires, quiet := make(map[string]bool), make(map[string]bool)
	for _, test := range tested.Tests {
		for _, alert := range test.AlertRuleTest {
			if len(alert.ExpAlerts) > 0 {
				fires[alert.Alertname] = true
			} else {
				quiet[alert.Alertname] = true
			}
		}
	}
	for _, g := range r.Groups {
		for _, rule := range g.Rules {
			if !fires[rule.Alert] || !quiet[rule.Alert] {
				t.Errorf("%s: fires in a test: %v; does not in one: %v", rule.Alert, fires[rule.Alert], quiet[rule.Alert])
			}
		}
	}
}

func TestPrometheusAndGrafana(t *testing.T) {
	t.Parallel()
	var s scrapes
	decodeFile(t, filepath.Join(observe, "prometheus.yml"), &s)
	if !s.Global.ScrapeNativeHistograms || len(s.RuleFiles) != 1 || len(s.ScrapeConfigs) != 2 {
		t.Errorf("prometheus.yml: %+v", s)
	}
	// Every file that is mounted is there, and is YAML.
	var compose struct {
		Services map[string]struct {
			Volumes []string `json:"volumes"`
		} `json:"services"`
	}
	data, err := os.ReadFile("../../compose.observe.yml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, &compose); err != nil { // not strict: of a compose file, this is a small part
		t.Fatal(err)
	}
	mounts := 0
	for name, service := range compose.Services {
		for _, v := range service.Volumes {
			path, _, _ := strings.Cut(v, ":")
			if !strings.HasPrefix(path, "./") {
				continue
			}
			mounts++
			if _, err := os.Stat(filepath.Join("../../..", path)); err != nil {
				t.Errorf("%s mounts %s: %v", name, path, err)
			}
		}
	}
	if mounts != 4 {
		t.Errorf("%d mounts", mounts)
	}
	for _, path := range []string{"datasources/prometheus.yml", "dashboards/jetbatch.yml"} {
		var v map[string]any
		decodeFile(t, filepath.Join(observe, "grafana/provisioning", path), &v)
	}
}
