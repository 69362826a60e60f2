package validate

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const namespace = "jetbatch"

// The folders that are applied: the manifests, and those with values.
const (
	base    = ".."
	overlay = "../../overlay"
)

// kinds are the resources that the manifests may have.
var kinds = map[string]func() meta.Object{
	"v1/Namespace":                       func() meta.Object { return new(core.Namespace) },
	"v1/Service":                         func() meta.Object { return new(core.Service) },
	"v1/ConfigMap":                       func() meta.Object { return new(core.ConfigMap) },
	"apps/v1/Deployment":                 func() meta.Object { return new(apps.Deployment) },
	"apps/v1/StatefulSet":                func() meta.Object { return new(apps.StatefulSet) },
	"batch/v1/Job":                       func() meta.Object { return new(batch.Job) },
	"policy/v1/PodDisruptionBudget":      func() meta.Object { return new(policy.PodDisruptionBudget) },
	"networking.k8s.io/v1/NetworkPolicy": func() meta.Object { return new(networking.NetworkPolicy) },
	"keda.sh/v1alpha1/ScaledObject":      func() meta.Object { return new(ScaledObject) },
}

// workload is what of a Deployment, StatefulSet or Job is checked.
type workload struct {
	name     string
	selector *meta.LabelSelector // nil for a Job's
	pod      core.PodTemplateSpec
	claims   []core.PersistentVolumeClaim
}

type manifests struct {
	objects   []meta.Object
	workloads []workload
}

// load builds a folder as "kubectl apply -k" does.
func load(t *testing.T, folder string) *manifests {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		t.Fatal(err)
	}
	data, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	m := new(manifests)
	if m.objects, err = decode(data); err != nil {
		t.Fatalf("%s: %v", folder, err)
	}
	for _, o := range m.objects {
		switch o := o.(type) {
		case *apps.Deployment:
			m.workloads = append(m.workloads, workload{o.Name, o.Spec.Selector, o.Spec.Template, nil})
		case *apps.StatefulSet:
			m.workloads = append(m.workloads, workload{o.Name, o.Spec.Selector, o.Spec.Template, o.Spec.VolumeClaimTemplates})
		case *batch.Job:
			m.workloads = append(m.workloads, workload{o.Name, nil, o.Spec.Template, nil})
		}
	}
	return m
}

// each runs a test on both folders.
func each(t *testing.T, test func(*testing.T, *manifests)) {
	t.Parallel()
	for _, folder := range []string{base, overlay} {
		t.Run(filepath.Base(folder), func(t *testing.T) { test(t, load(t, folder)) })
	}
}

// decode reads all documents of a file. An unknown or doubled field is an error.
func decode(data []byte) ([]meta.Object, error) {
	var objects []meta.Object
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		var what meta.TypeMeta
		if err := yaml.Unmarshal(doc, &what); err != nil {
			return nil, err
		}
		build := kinds[what.APIVersion+"/"+what.Kind]
		if build == nil {
			return nil, fmt.Errorf("kind %s/%s is not known here", what.APIVersion, what.Kind)
		}
		o := build()
		if err := yaml.UnmarshalStrict(doc, o); err != nil {
			return nil, fmt.Errorf("%s: %w", what.Kind, err)
		}
		objects = append(objects, o)
	}
}

func TestStrict(t *testing.T) {
	t.Parallel()
	for name, doc := range map[string]string{
		"misspelt":  "apiVersion: apps/v1\nkind: Deployment\nspec: {template: {spec: {containers: [{name: a, imagee: b}]}}}",
		"misplaced": "apiVersion: apps/v1\nkind: Deployment\nspec: {containers: []}",
		"doubled":   "apiVersion: v1\nkind: Service\nspec: {clusterIP: None, clusterIP: None}",
		"type":      "apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: two}",
		"unknown":   "apiVersion: apps/v1\nkind: Replicator",
		"scaled":    "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nspec: {minReplicas: 1}",
	} {
		if _, err := decode([]byte(doc)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Every file is part of a kustomization, and everything is in the namespace, once.
func TestComplete(t *testing.T) {
	for _, folder := range []string{base, overlay} {
		files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		listed, err := os.ReadFile(filepath.Join(folder, "kustomization.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if name := filepath.Base(file); name != "kustomization.yaml" && !strings.Contains(string(listed), "- "+name+"\n") {
				t.Errorf("%s is not in kustomization.yaml", file)
			}
		}
	}
	each(t, func(t *testing.T, m *manifests) {
		seen := make(map[string]bool)
		for _, o := range m.objects {
			id := fmt.Sprintf("%T %s", o, o.GetName())
			if o.GetName() == "" || seen[id] {
				t.Errorf("%s is there twice, or has no name", id)
			}
			seen[id] = true
			if _, global := o.(*core.Namespace); !global && o.GetNamespace() != namespace {
				t.Errorf("%s is in namespace %q", id, o.GetNamespace())
			}
		}
	})
}

// What the namespace's policy "restricted" asks for, and more: no writable image, no token, bounded memory.
func TestConfined(t *testing.T) {
	each(t, func(t *testing.T, m *manifests) {
		for _, w := range m.workloads {
			spec := w.pod.Spec
			if p := spec.SecurityContext; p == nil || p.RunAsNonRoot == nil || !*p.RunAsNonRoot || p.RunAsUser == nil || *p.RunAsUser == 0 ||
				p.SeccompProfile == nil || p.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s: the pod's security context is %+v", w.name, p)
			}
			if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
				t.Errorf("%s has a token of the API, which it does not need", w.name)
			}
			for _, c := range spec.Containers {
				s := c.SecurityContext
				if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil ||
					*s.AllowPrivilegeEscalation || s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) {
					t.Errorf("%s: the security context of %s is %+v", w.name, c.Name, s)
				}
				request, limit := c.Resources.Requests.Memory(), c.Resources.Limits.Memory()
				if limit.IsZero() || request.IsZero() || request.Cmp(*limit) > 0 {
					t.Errorf("%s: memory of %s: requests %v, limit %v", w.name, c.Name, request, limit)
				}
				// Roles find the limit themselves. What is told must be below it.
				if told := slices.ContainsFunc(c.Env, func(e core.EnvVar) bool { return e.Name == "GOMEMLIMIT" }); told && request.Cmp(*limit) == 0 {
					t.Errorf("%s: GOMEMLIMIT of %s is the request, which is the limit: %v", w.name, c.Name, limit)
				}
				if c.Resources.Requests.Cpu().IsZero() {
					t.Errorf("%s: %s asks for no CPU", w.name, c.Name)
				}
				if w.selector != nil && (c.ReadinessProbe == nil || c.LivenessProbe == nil) {
					t.Errorf("%s: %s has no probe", w.name, c.Name)
				}
			}
		}
	})
}

var pinned = regexp.MustCompile(`^[a-z0-9./-]+:[0-9]+\.[0-9.]+[a-z0-9.-]*$`)

// Names that refer to something are of something that is there.
func TestReferences(t *testing.T) {
	each(t, func(t *testing.T, m *manifests) {
		for _, w := range m.workloads {
			if w.selector != nil {
				selects(t, w.name, w.selector, w)
			}
			volumes := make(map[string]bool)
			for _, v := range w.pod.Spec.Volumes {
				volumes[v.Name] = true
				if v.ConfigMap != nil && !m.has(func(o meta.Object) bool { c, ok := o.(*core.ConfigMap); return ok && c.Name == v.ConfigMap.Name }) {
					t.Errorf("%s: there is no ConfigMap %s", w.name, v.ConfigMap.Name)
				}
			}
			for _, c := range w.claims {
				volumes[c.Name] = true
			}
			for _, c := range w.pod.Spec.Containers {
				if !pinned.MatchString(c.Image) {
					t.Errorf("%s: image %s has no version", w.name, c.Image)
				}
				for _, v := range c.VolumeMounts {
					if !volumes[v.Name] {
						t.Errorf("%s: %s mounts %s, which is no volume", w.name, c.Name, v.Name)
					}
				}
				for _, probe := range []*core.Probe{c.ReadinessProbe, c.LivenessProbe, c.StartupProbe} {
					if probe != nil && probe.HTTPGet != nil && !hasPort(c, probe.HTTPGet.Port.StrVal) {
						t.Errorf("%s: a probe of %s asks port %s, which it has not", w.name, c.Name, probe.HTTPGet.Port.StrVal)
					}
				}
				for _, e := range c.Env {
					if file, ok := strings.CutPrefix(e.Value, "/"); ok && !slices.ContainsFunc(c.VolumeMounts, func(v core.VolumeMount) bool {
						return strings.HasPrefix("/"+file+"/", v.MountPath+"/")
					}) {
						t.Errorf("%s: %s=%s is in no volume", w.name, e.Name, e.Value)
					}
				}
			}
		}
		for _, o := range m.objects {
			switch o := o.(type) {
			case *core.Service:
				w := m.selected(t, o.Name, meta.SetAsLabelSelector(o.Spec.Selector))
				for _, p := range o.Spec.Ports {
					if w == nil || !hasPort(w.pod.Spec.Containers[0], p.TargetPort.StrVal) {
						t.Errorf("service %s: no container has port %s", o.Name, p.TargetPort.StrVal)
					}
				}
			case *apps.StatefulSet:
				if !slices.ContainsFunc(m.objects, func(s meta.Object) bool {
					service, ok := s.(*core.Service)
					return ok && service.Name == o.Spec.ServiceName && service.Spec.ClusterIP == core.ClusterIPNone
				}) {
					t.Errorf("%s: there is no headless service %s", o.Name, o.Spec.ServiceName)
				}
			case *policy.PodDisruptionBudget:
				m.selected(t, o.Name, o.Spec.Selector)
			case *networking.NetworkPolicy:
				w := m.selected(t, o.Name, &o.Spec.PodSelector)
				for _, rule := range o.Spec.Ingress { // TestNetwork tries egress, whose ports are of the other end
					for _, p := range rule.Ports {
						if w == nil || !hasPort(w.pod.Spec.Containers[0], p.Port.StrVal) {
							t.Errorf("policy %s: no container has port %s", o.Name, p.Port.StrVal)
						}
					}
				}
			case *ScaledObject:
				if err := o.check(); err != nil {
					t.Errorf("ScaledObject %s: %v", o.Name, err)
				}
				i := slices.IndexFunc(m.objects, func(d meta.Object) bool {
					_, ok := d.(*apps.Deployment)
					return ok && d.GetName() == o.Spec.ScaleTargetRef.Name
				})
				if i < 0 {
					t.Errorf("ScaledObject %s: there is no Deployment %s", o.Name, o.Spec.ScaleTargetRef.Name)
				} else if m.objects[i].(*apps.Deployment).Spec.Replicas != nil {
					t.Errorf("Deployment %s says how many, which is for ScaledObject %s to say", o.Spec.ScaleTargetRef.Name, o.Name)
				}
			}
		}
	})
}

// Roles are drained, and replaced by one that is there before the old one goes.
func TestRolling(t *testing.T) {
	each(t, func(t *testing.T, m *manifests) {
		for _, o := range m.objects {
			d, ok := o.(*apps.Deployment)
			if !ok {
				continue
			}
			r := d.Spec.Strategy.RollingUpdate
			if r == nil || r.MaxUnavailable == nil || r.MaxUnavailable.IntValue() != 0 || r.MaxSurge == nil {
				t.Errorf("%s: strategy %+v takes an old one away before a new one is ready", d.Name, r)
			}
			if grace := d.Spec.Template.Spec.TerminationGracePeriodSeconds; d.Name == "worker" && (grace == nil || *grace <= 30) {
				t.Errorf("worker: grace period %v, while a worker drains for 30 s", grace)
			}
		}
	})
}

func (m *manifests) has(is func(meta.Object) bool) bool { return slices.ContainsFunc(m.objects, is) }

// selected returns a workload whose pods are selected; there must be one.
func (m *manifests) selected(t *testing.T, what string, s *meta.LabelSelector) *workload {
	t.Helper()
	for i, w := range m.workloads {
		if selector, err := meta.LabelSelectorAsSelector(s); err == nil && selector.Matches(labels.Set(w.pod.Labels)) {
			return &m.workloads[i]
		}
	}
	t.Errorf("%s selects no pods", what)
	return nil
}

func selects(t *testing.T, what string, s *meta.LabelSelector, w workload) {
	t.Helper()
	selector, err := meta.LabelSelectorAsSelector(s)
	if err != nil || selector.Empty() || !selector.Matches(labels.Set(w.pod.Labels)) {
		t.Errorf("%s does not select its own pods", what)
	}
}

func hasPort(c core.Container, name string) bool {
	return slices.ContainsFunc(c.Ports, func(p core.ContainerPort) bool { return p.Name == name })
}
