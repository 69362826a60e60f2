package validate

import (
	"fmt"

	autoscaling "k8s.io/api/autoscaling/v2"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ScaledObject is what of KEDA's resource the manifests may use, from its documentation (keda.sh, 2.18): its own module
// would bring a controller along.
type ScaledObject struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata"`
	Spec            struct {
		ScaleTargetRef struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Name       string `json:"name"`
		} `json:"scaleTargetRef"`
		PollingInterval  *int32 `json:"pollingInterval"`
		CooldownPeriod   *int32 `json:"cooldownPeriod"`
		IdleReplicaCount *int32 `json:"idleReplicaCount"`
		MinReplicaCount  *int32 `json:"minReplicaCount"`
		MaxReplicaCount  *int32 `json:"maxReplicaCount"`
		Fallback         *struct {
			FailureThreshold int32  `json:"failureThreshold"`
			Replicas         int32  `json:"replicas"`
			Behavior         string `json:"behavior"`
		} `json:"fallback"`
		Advanced struct {
			HorizontalPodAutoscalerConfig struct {
				Behavior autoscaling.HorizontalPodAutoscalerBehavior `json:"behavior"`
			} `json:"horizontalPodAutoscalerConfig"`
		} `json:"advanced"`
		Triggers []struct {
			Type       string            `json:"type"`
			MetricType string            `json:"metricType"`
			Metadata   map[string]string `json:"metadata"`
		} `json:"triggers"`
	} `json:"spec"`
}

// prometheusMetadata is what a trigger of type prometheus takes here, and whether it must be there.
var prometheusMetadata = map[string]bool{
	"serverAddress": true, "query": true, "threshold": true, "activationThreshold": false, "ignoreNullValues": false, "timeout": false,
}

var fallbackBehaviors = map[string]bool{
	"": true, "static": true, "currentReplicas": true, "currentReplicasIfHigher": true, "currentReplicasIfLower": true,
}

// check says what KEDA's webhook, or KEDA itself, would refuse.
func (s *ScaledObject) check() error {
	spec := &s.Spec
	if spec.MinReplicaCount == nil || spec.MaxReplicaCount == nil || *spec.MinReplicaCount > *spec.MaxReplicaCount {
		return fmt.Errorf("minReplicaCount and maxReplicaCount do not fit together")
	}
	if spec.IdleReplicaCount != nil && (*spec.IdleReplicaCount != 0 || *spec.MinReplicaCount == 0) {
		return fmt.Errorf("idleReplicaCount is 0 and below minReplicaCount, or not there")
	}
	if f := spec.Fallback; f != nil && (f.FailureThreshold < 1 || f.Replicas < 0 || f.Replicas > *spec.MaxReplicaCount || !fallbackBehaviors[f.Behavior]) {
		return fmt.Errorf("fallback %+v", *f)
	}
	if len(spec.Triggers) == 0 {
		return fmt.Errorf("no trigger")
	}
	for _, trigger := range spec.Triggers {
		if trigger.Type != "prometheus" {
			return fmt.Errorf("trigger of type %q, which is not known here", trigger.Type)
		}
		// A fallback is for averages only.
		if trigger.MetricType != "AverageValue" {
			return fmt.Errorf("metricType %q", trigger.MetricType)
		}
		for key, required := range prometheusMetadata {
			if required && trigger.Metadata[key] == "" {
				return fmt.Errorf("a prometheus trigger has no %s", key)
			}
		}
		for key := range trigger.Metadata {
			if _, known := prometheusMetadata[key]; !known {
				return fmt.Errorf("a prometheus trigger has no field %s", key)
			}
		}
	}
	return nil
}
