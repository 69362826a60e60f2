package validate

import (
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// pod is one end of a connection.
type pod struct{ namespace, labels string }

var (
	natsPod     = pod{"jetbatch", "app.kubernetes.io/name=nats,app.kubernetes.io/part-of=jetbatch"}
	coordPod    = pod{"jetbatch", "app.kubernetes.io/name=coordinator,app.kubernetes.io/part-of=jetbatch"}
	workerPod   = pod{"jetbatch", "app.kubernetes.io/name=worker,app.kubernetes.io/part-of=jetbatch"}
	trainerPod  = pod{"jetbatch", "jetbatch.io/client=true"}
	elsewhere   = pod{"training", "app=train"} // in a namespace with the label
	scraper     = pod{"monitoring", "app.kubernetes.io/name=prometheus"}
	neighbour   = pod{"monitoring", "app.kubernetes.io/name=grafana"}
	pretender   = pod{"other", "app.kubernetes.io/name=prometheus"}
	dnsPod      = pod{"kube-system", "k8s-app=kube-dns"}
	strangerPod = pod{"other", "app=any"}
)

// namespaces are their labels.
var namespaces = map[string]labels.Set{
	"jetbatch":    {"kubernetes.io/metadata.name": "jetbatch"},
	"training":    {"kubernetes.io/metadata.name": "training", "jetbatch.io/client": "true"},
	"monitoring":  {"kubernetes.io/metadata.name": "monitoring"},
	"kube-system": {"kubernetes.io/metadata.name": "kube-system"},
	"other":       {"kubernetes.io/metadata.name": "other"},
}

// The policies let through what the service is made of, and nothing else: every pod tries every other.
func TestNetwork(t *testing.T) {
	t.Parallel()
	var policies []*networking.NetworkPolicy
	for _, o := range load(t, base).objects {
		if p, ok := o.(*networking.NetworkPolicy); ok {
			policies = append(policies, p)
		}
	}
	all := []pod{natsPod, coordPod, workerPod, trainerPod, elsewhere, scraper, neighbour, pretender, dnsPod, strangerPod}
	ports := []string{"client", "cluster", "http", "direct", "53"}
	open := map[[2]pod][]string{
		{natsPod, natsPod}:      {"cluster"},
		{coordPod, natsPod}:     {"client"},
		{workerPod, natsPod}:    {"client"},
		{trainerPod, natsPod}:   {"client"},
		{elsewhere, natsPod}:    {"client"},
		{trainerPod, workerPod}: {"direct"},
		{elsewhere, workerPod}:  {"direct"},
		{scraper, coordPod}:     {"http"},
		{scraper, workerPod}:    {"http"},
		{natsPod, dnsPod}:       {"53"},
		{coordPod, dnsPod}:      {"53"},
		{workerPod, dnsPod}:     {"53"},
	}
	ours := []pod{natsPod, coordPod, workerPod}
	for _, from := range all {
		for _, to := range all {
			if !slices.Contains(ours, from) && !slices.Contains(ours, to) {
				continue // not for these policies to say
			}
			for _, port := range ports {
				got := allowed(t, policies, networking.PolicyTypeEgress, from, to, port) &&
					allowed(t, policies, networking.PolicyTypeIngress, to, from, port)
				if want := slices.Contains(open[[2]pod{from, to}], port); got != want {
					t.Errorf("%v to %v, port %s: %t, want %t", from, to, port, got, want)
				}
			}
		}
	}
}

// allowed reports whether the policies of one end let it speak to the other: without a policy everything is open.
func allowed(t *testing.T, policies []*networking.NetworkPolicy, side networking.PolicyType, end, other pod, port string) bool {
	t.Helper()
	held := false
	for _, p := range policies {
		if end.namespace != p.Namespace || !slices.Contains(p.Spec.PolicyTypes, side) || !matches(t, &p.Spec.PodSelector, end.set(t)) {
			continue
		}
		held = true
		for _, rule := range p.Spec.Ingress {
			if side == networking.PolicyTypeIngress && hasPeer(t, p, rule.From, other) && hasRulePort(rule.Ports, port) {
				return true
			}
		}
		for _, rule := range p.Spec.Egress {
			if side == networking.PolicyTypeEgress && hasPeer(t, p, rule.To, other) && hasRulePort(rule.Ports, port) {
				return true
			}
		}
	}
	return !held
}

// hasPeer reports whether a rule speaks of a pod; one that names nobody speaks of all.
func hasPeer(t *testing.T, p *networking.NetworkPolicy, peers []networking.NetworkPolicyPeer, other pod) bool {
	t.Helper()
	for _, peer := range peers {
		inNamespace := other.namespace == p.Namespace
		if peer.NamespaceSelector != nil {
			inNamespace = matches(t, peer.NamespaceSelector, namespaces[other.namespace])
		}
		if inNamespace && (peer.PodSelector == nil || matches(t, peer.PodSelector, other.set(t))) {
			return true
		}
	}
	return len(peers) == 0
}

func hasRulePort(ports []networking.NetworkPolicyPort, port string) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p networking.NetworkPolicyPort) bool {
		return p.Port.String() == port && (p.Protocol == nil || *p.Protocol == core.ProtocolTCP || port == "53")
	})
}

func matches(t *testing.T, s *meta.LabelSelector, set labels.Set) bool {
	t.Helper()
	selector, err := meta.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(set)
}

func (p pod) set(t *testing.T) labels.Set {
	t.Helper()
	set := make(labels.Set)
	for pair := range strings.SplitSeq(p.labels, ",") {
		key, value, _ := strings.Cut(pair, "=")
		set[key] = value
	}
	return set
}

// The pods that the policies above are tried with are those of the workloads.
func TestNetworkPods(t *testing.T) {
	t.Parallel()
	for _, w := range load(t, base).workloads {
		if !slices.ContainsFunc([]pod{natsPod, coordPod, workerPod}, func(p pod) bool {
			return labels.Equals(p.set(t), w.pod.Labels)
		}) {
			t.Errorf("%s has labels %v, which TestNetwork does not try", w.name, w.pod.Labels)
		}
	}
}
