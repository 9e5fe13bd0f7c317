// Package kubernetes stands in for the driver that builds images in Kubernetes. Docker Compose
// imports the driver only to register it, and its dependencies take much of the time of the build.
package kubernetes
