// Reads Compose files as Docker Compose does, which uses the same library: checks them against
// the specification's schema, puts in variables, and sees to it that what they refer to is there.
// Prints the outcome as JSON. `make stack` builds it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	options, err := cli.NewProjectOptions(os.Args[1:], cli.WithOsEnv, cli.WithDefaultProfiles())
	if err == nil {
		project, problem := options.LoadProject(context.Background())
		err = problem
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(project)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
