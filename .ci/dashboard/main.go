// Command dashboard asks a Prometheus that watches a service at work for all that a Grafana dashboard shows, as Grafana
// would, and fails for a query that fails, returns nothing, or returns what its panel cannot draw or name. It also says
// which targets are scraped and what the alert rules are up to, and fails if either does not work.
//
//	dashboard http://127.0.0.1:9090 deploy/observe/grafana/dashboards/jetbatch.json
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"
)

// dashboard is what of a dashboard decides what is asked.
type dashboard struct {
	Templating struct {
		List []struct {
			Name, Type, Definition string
		}
	}
	Panels []panel
}

type panel struct {
	Title   string
	Targets []struct {
		Expr, LegendFormat string
	}
}

const (
	scrapeInterval = 5 * time.Second    // of deploy/observe/prometheus.yml
	rateInterval   = 4 * scrapeInterval // which is Grafana's $__rate_interval
	shown          = time.Minute
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: dashboard PROMETHEUS FILE")
		os.Exit(2)
	}
	if err := run(server(os.Args[1]), os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

func run(prometheus server, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var d dashboard
	if err := json.Unmarshal(data, &d); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	err = errors.Join(prometheus.targets(out), prometheus.rules(out), prometheus.panels(out, d))
	return errors.Join(err, out.Flush())
}

// panels asks every query of every panel.
func (s server) panels(out *tabwriter.Writer, d dashboard) error {
	variables, err := s.variables(d)
	if err != nil {
		return err
	}
	var failed []error
	for _, p := range d.Panels {
		for _, t := range p.Targets {
			found, err := s.series(variables.Replace(t.Expr))
			if err == nil {
				err = drawable(found, t.LegendFormat)
			}
			if err != nil {
				failed = append(failed, fmt.Errorf("panel %q: %s: %w", p.Title, t.Expr, err))
				continue
			}
			first := found[0]
			fmt.Fprintf(out, "panel %s\t%d series\t%s\t%v\n", p.Title, len(found), first.legend(t.LegendFormat), first.Values[len(first.Values)-1][1])
		}
	}
	return errors.Join(failed...)
}

// variables are the dashboard's own, with all that there is chosen, and Grafana's.
func (s server) variables(d dashboard) (*strings.Replacer, error) {
	replace := []string{"$__rate_interval", rateInterval.String()}
	definition := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		parts := definition.FindStringSubmatch(v.Definition)
		if parts == nil {
			return nil, fmt.Errorf("variable %s: %q is no label_values(…)", v.Name, v.Definition)
		}
		var values []string
		if err := s.get("label/"+parts[2]+"/values", url.Values{"match[]": {parts[1]}}, &values); err != nil {
			return nil, fmt.Errorf("variable %s: %w", v.Name, err)
		}
		if len(values) == 0 {
			return nil, fmt.Errorf("variable %s: %s has no values", v.Name, v.Definition)
		}
		replace = append(replace, "$"+v.Name, "("+strings.Join(values, "|")+")")
	}
	return strings.NewReplacer(replace...), nil
}

// series is one line of a graph.
type series struct {
	Metric     map[string]string
	Values     [][2]any
	Histograms []any
}

func (s server) series(expr string) ([]series, error) {
	now := time.Now()
	var result struct{ Result []series }
	err := s.get("query_range", url.Values{
		"query": {expr}, "step": {scrapeInterval.String()},
		"start": {stamp(now.Add(-shown))}, "end": {stamp(now)},
	}, &result)
	return result.Result, err
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// drawable says why a panel with this legend could not show these series.
func drawable(found []series, legend string) error {
	if len(found) == 0 {
		return errors.New("no series")
	}
	for _, one := range found {
		if len(one.Values) == 0 {
			return fmt.Errorf("%v: %d histograms, and no numbers", one.Metric, len(one.Histograms))
		}
		if strings.Contains(one.legend(legend), "{{") {
			return fmt.Errorf("legend %q of %v names a label that is not there", legend, one.Metric)
		}
	}
	return nil
}

func (one series) legend(format string) string {
	for label, value := range one.Metric {
		format = strings.ReplaceAll(format, "{{"+label+"}}", value)
	}
	return format
}

// targets says what is scraped; all of it must be up.
func (s server) targets(out *tabwriter.Writer) error {
	var result struct {
		ActiveTargets []struct{ ScrapePool, ScrapeURL, Health, LastError string }
	}
	if err := s.get("targets", nil, &result); err != nil {
		return err
	}
	if len(result.ActiveTargets) == 0 {
		return errors.New("no targets")
	}
	var failed []error
	for _, t := range result.ActiveTargets {
		fmt.Fprintf(out, "target %s\t%s\t%s\n", t.ScrapePool, t.Health, t.ScrapeURL)
		if t.Health != "up" {
			failed = append(failed, fmt.Errorf("target %s is %s: %s", t.ScrapeURL, t.Health, t.LastError))
		}
	}
	return errors.Join(failed...)
}

// rules says which alerts there are and in what state; all of them must have been evaluated.
func (s server) rules(out *tabwriter.Writer) error {
	var result struct {
		Groups []struct {
			Rules []struct{ Name, State, Health, LastError string }
		}
	}
	if err := s.get("rules", nil, &result); err != nil {
		return err
	}
	var failed []error
	n := 0
	for _, g := range result.Groups {
		for _, r := range g.Rules {
			n++
			fmt.Fprintf(out, "alert %s\t%s\n", r.Name, r.State)
			if r.Health != "ok" {
				failed = append(failed, fmt.Errorf("alert %s is %s: %s", r.Name, r.Health, r.LastError))
			}
		}
	}
	if n == 0 {
		return errors.New("no alerts")
	}
	return errors.Join(failed...)
}

// server is the base URL of a Prometheus.
type server string

// get asks the API; a warning in its answer is an error, since it is one about the query.
func (s server) get(what string, query url.Values, result any) error {
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(string(s) + "/api/v1/" + what + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close() // it is read whole
	var answer struct {
		Status, Error string
		Warnings      []string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %s: %w", what, resp.Status, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", what, answer.Error)
	}
	if len(answer.Warnings) > 0 {
		return fmt.Errorf("%s: %s", what, strings.Join(answer.Warnings, "; "))
	}
	return json.Unmarshal(answer.Data, result)
}
