// Stands in for Loki and Grafana where their Compose file runs: answers every request on a port,
// and keeps the body of each POST as a file. `make stack` builds it.
package main

import (
	"compress/gzip"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	address, directory := os.Getenv("STANDIN_ADDRESS"), os.Getenv("STANDIN_DIRECTORY")
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		if request.Method == http.MethodPost {
			if err := keep(request, directory); err != nil {
				log.Print(err)
				http.Error(answer, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		answer.Header().Set("Content-Type", request.Header.Get("Content-Type"))
	})
	log.Fatal(http.ListenAndServe(address, nil))
}

// keep is done when the whole body is on the disk, under a name that ends as its path does.
func keep(request *http.Request, directory string) error {
	body := io.Reader(request.Body)
	if request.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(request.Body)
		if err != nil {
			return err
		}
		body = unpacked
	}
	file, err := os.CreateTemp(directory, "*.unfinished")
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err = io.Copy(file, body); err != nil {
		return err
	}
	if err = file.Sync(); err != nil {
		return err
	}
	name := strings.TrimSuffix(file.Name(), "unfinished") + filepath.Base(request.URL.Path)
	return os.Rename(file.Name(), name)
}
