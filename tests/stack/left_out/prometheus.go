// Package kubernetes stands in for the discovery of targets in Kubernetes. promtool checks its
// configuration, and so imports dependencies that take much of the time of the build.
package kubernetes

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"

	"github.com/prometheus/prometheus/discovery"
)

// SDConfig has what promtool checks.
type SDConfig struct {
	HTTPClientConfig config.HTTPClientConfig
}

// Name returns the name of the mechanism.
func (*SDConfig) Name() string { return "kubernetes" }

// NewDiscoverer refuses to find any target.
func (*SDConfig) NewDiscoverer(discovery.DiscovererOptions) (discovery.Discoverer, error) {
	return nil, errors.New("built without Kubernetes")
}

// NewDiscovererMetrics returns no metrics.
func (*SDConfig) NewDiscovererMetrics(
	prometheus.Registerer, discovery.RefreshMetricsInstantiator,
) discovery.DiscovererMetrics {
	return &discovery.NoopDiscovererMetrics{}
}
