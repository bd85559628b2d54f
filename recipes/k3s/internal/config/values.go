package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"furrow/k3s/internal/layout"
)

// values holds the text of every key that was set, lists in their order.
type values map[string][]string

func (v values) text(name, fallback string) string {
	if len(v[name]) == 0 {
		return fallback
	}
	return v[name][0]
}

// readFiles merges config.yaml and its drop-ins in alphabetical order. The file
// may be absent: everything has a default or is checked later.
func readFiles(file string) (values, error) {
	explicit := file != ""
	if !explicit {
		file = layout.ConfigFile
	}
	merged := values{}
	content, err := os.ReadFile(file)
	switch {
	case err == nil:
		if err := merged.merge(file, content); err != nil {
			return nil, err
		}
	case explicit || !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("could not read the configuration: %w", err)
	}
	for _, pattern := range []string{"*.yaml", "*.yml"} {
		dropIns, err := filepath.Glob(filepath.Join(file+".d", pattern))
		if err != nil {
			return nil, fmt.Errorf("could not list the drop-ins of %s: %w", file, err)
		}
		for _, dropIn := range dropIns {
			content, err := os.ReadFile(dropIn)
			if err != nil {
				return nil, fmt.Errorf("could not read the configuration: %w", err)
			}
			if err := merged.merge(dropIn, content); err != nil {
				return nil, err
			}
		}
	}
	return merged, nil
}

// merge takes one document over what is there: a key replaces, `key+` appends.
func (v values) merge(file string, content []byte) error {
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return fmt.Errorf("could not parse %s: %w", file, err)
	}
	if len(document.Content) == 0 {
		return nil // an empty file, or one of comments
	}
	mapping := document.Content[0]
	if mapping.Kind != yaml.MappingNode {
		return fmt.Errorf("%s is not a YAML mapping", file)
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, node := mapping.Content[i], mapping.Content[i+1]
		if err := v.mergeKey(key.Value, node); err != nil {
			return fmt.Errorf("%s, line %d: %w", file, key.Line, err)
		}
	}
	return nil
}

func (v values) mergeKey(key string, node *yaml.Node) error {
	name, appends := strings.CutSuffix(key, "+")
	known, ok := options[name]
	if !ok {
		return fmt.Errorf("unknown key %q", key)
	}
	parsed, err := parseNode(known.kind, node)
	if err != nil {
		return fmt.Errorf("key %q %w", key, err)
	}
	if appends {
		if known.kind != list && known.kind != words {
			return fmt.Errorf("key %q appends to an option that is no list", key)
		}
		parsed = append(append([]string{}, v[name]...), parsed...)
	}
	v[name] = parsed
	return nil
}

// parseNode keeps a scalar's source text: 0600 must not become 384.
func parseNode(k kind, node *yaml.Node) ([]string, error) {
	items := []*yaml.Node{node}
	if node.Kind == yaml.SequenceNode {
		if k == text || k == boolean {
			return nil, errors.New("takes one value, not a list")
		}
		items = node.Content
	}
	var parsed []string
	for _, item := range items {
		if item.Kind != yaml.ScalarNode {
			return nil, errors.New("has a value that is neither text, number nor boolean")
		}
		if item.Tag == "!!null" {
			continue
		}
		if k == boolean && item.Value != "true" && item.Value != "false" {
			return nil, fmt.Errorf("is %q, not true or false", item.Value)
		}
		parsed = append(parsed, split(k, item.Value)...)
	}
	return parsed, nil
}

func split(k kind, text string) []string {
	if k != words {
		return []string{text}
	}
	var parts []string
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

// parseArgs reads the command line of a role and the --config path in it.
func parseArgs(role Role, args []string) (values, string, error) {
	flags := pflag.NewFlagSet("k3s "+string(role), pflag.ContinueOnError)
	file := flags.StringP("config", "c", "", "configuration file (default "+layout.ConfigFile+")")
	texts, booleans, lists := map[string]*string{}, map[string]*bool{}, map[string]*[]string{}
	for name, o := range options {
		switch o.kind {
		case text:
			texts[name] = flags.String(name, "", o.help)
		case boolean:
			booleans[name] = flags.Bool(name, false, o.help)
		default:
			lists[name] = flags.StringArray(name, nil, o.help)
		}
	}
	flags.SortFlags = true
	if err := flags.Parse(args); err != nil {
		return nil, "", err
	}
	if flags.NArg() > 0 {
		return nil, "", fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	set := values{}
	flags.Visit(func(f *pflag.Flag) {
		switch {
		case texts[f.Name] != nil:
			set[f.Name] = []string{*texts[f.Name]}
		case booleans[f.Name] != nil:
			set[f.Name] = []string{strconv.FormatBool(*booleans[f.Name])}
		case lists[f.Name] != nil:
			for _, item := range *lists[f.Name] {
				set[f.Name] = append(set[f.Name], split(options[f.Name].kind, item)...)
			}
		}
	})
	return set, *file, nil
}
