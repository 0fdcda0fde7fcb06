package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/store"
)

// completer is what cobra calls for the words that a shell may offer. Errors
// offer nothing: a shell has no place to show them.
type completer = func(c *cobra.Command, args []string, start string) ([]cobra.Completion, cobra.ShellCompDirective)

// firstArg has complete offer words for the first argument only.
func firstArg(complete completer) completer {
	return func(c *cobra.Command, args []string, start string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(c, args, start)
	}
}

func (a *app) completeProfiles(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	h, err := a.openHome()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	profiles, _ := h.vault.Profiles(c.Context())
	var names []cobra.Completion
	for _, p := range profiles {
		names = append(names, string(p.Name))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeRuns offers the newest runs, with what they were told to do.
func (a *app) completeRuns(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const offered = 30
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	h, err := a.openHome()
	if err != nil {
		return nil, directive
	}
	s, err := store.Open(c.Context(), storePath(h.dir))
	if err != nil {
		return nil, directive
	}
	defer s.Close()
	runs, _ := s.Runs(c.Context(), store.Filter{Limit: offered})
	var ids []cobra.Completion
	for _, r := range runs {
		ids = append(ids, cobra.CompletionWithDesc(string(r.ID), fmt.Sprintf("%s, %s", verdictText(r), printable(r.Prompt, 40))))
	}
	return ids, directive
}

func completeDirs(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}
