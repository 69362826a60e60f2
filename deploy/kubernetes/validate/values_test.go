package validate

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// Every value of values.env arrives where it is said to, and nothing else has it.
func TestValues(t *testing.T) {
	t.Parallel()
	const root = "../.."
	disk, memory := filesys.MakeFsOnDisk(), filesys.MakeFsInMemory()
	for _, folder := range []string{"kubernetes", "overlay"} {
		files, err := filepath.Glob(filepath.Join(root, folder, "*.*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := disk.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := memory.WriteFile(filepath.Join("/", folder, filepath.Base(file)), data); err != nil {
				t.Fatal(err)
			}
		}
	}
	mine := map[string]string{
		"image": "registry.example.com/me/jetbatch:7.8", "data_claim": "recordings", "worker_cpu": "12",
		"worker_memory": "48Gi", "workers_most": "77", "dataset": "mine", "data": "", "params": `{"a":[1,2],"b":"c d"}`,
		"batches": "0",
	}
	text, err := os.ReadFile(filepath.Join(root, "overlay", "values.env"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, key := range regexp.MustCompile(`(?m)^[a-z_]+=`).FindAllString(string(text), -1) {
		value, known := mine[strings.TrimSuffix(key, "=")]
		if !known {
			t.Errorf("%s is not tried here", key)
		}
		lines = append(lines, key+value)
	}
	if len(lines) != len(mine) {
		t.Errorf("values.env has %d values, %d are tried", len(lines), len(mine))
	}
	if err := memory.WriteFile("/overlay/values.env", []byte(strings.Join(lines, "\n")+"\n")); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(memory, "/overlay")
	if err != nil {
		t.Fatal(err)
	}
	data, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	objects, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	is := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %q, want %q", what, got, want)
		}
	}
	pod := func(name string, spec core.PodSpec) {
		is("the image of "+name, spec.Containers[0].Image, mine["image"])
		for _, v := range spec.Volumes {
			if v.PersistentVolumeClaim != nil {
				is("the claim of "+name, v.PersistentVolumeClaim.ClaimName, mine["data_claim"])
			}
		}
	}
	seen := 0
	for _, o := range objects {
		switch o := o.(type) {
		case *apps.Deployment:
			seen++
			pod(o.Name, o.Spec.Template.Spec)
			if r := o.Spec.Template.Spec.Containers[0].Resources; o.Name == "worker" {
				for _, list := range []core.ResourceList{r.Requests, r.Limits} {
					is("a worker's CPU", list.Cpu().String(), mine["worker_cpu"])
					is("a worker's memory", list.Memory().String(), mine["worker_memory"])
				}
			}
		case *batch.Job:
			seen++
			pod(o.Name, o.Spec.Template.Spec)
			env := make(map[string]string)
			for _, e := range o.Spec.Template.Spec.Containers[0].Env {
				env[e.Name] = e.Value
			}
			for _, key := range []string{"dataset", "data", "params", "batches"} {
				name := "JETBATCH_" + strings.ToUpper(key)
				is(name, env[name], mine[key])
			}
		case *ScaledObject:
			seen++
			if *o.Spec.MaxReplicaCount != 77 {
				t.Errorf("at most %d workers", *o.Spec.MaxReplicaCount)
			}
		}
	}
	if seen != 4 {
		t.Errorf("%d of 4 were there", seen)
	}
}
