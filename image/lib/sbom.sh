# The bill of materials beside the medium: Debian's packages, crates and Go modules with their versions, as CycloneDX.

# make_sbom SOURCE FILE
make_sbom() {
  local source=$1 file=$2
  "$image_dir/need" jq
  {
    jq -r '.packages[] | ["deb", .name, .version] | @tsv' "$source/image.json"
    # Our own crates come with the path that they lie in, which is nobody's business.
    "$image_dir/cargo" tree --quiet --locked --edges normal --prefix none --format '{p}' "${our_programs[@]/#/-p}" |
      awk '$1 !~ /^furrow-/ { print "cargo\t" $1 "\t" substr($2, 2) }'
    sed -n 's/^\t\([^ ]*\) \(v[^ ]*\).*/golang\t\1\t\2/p' "$repo_dir"/recipes/*/go.mod
  } | LC_ALL=C sort -u | jq -R -s --arg version "$(version_of "$source")" --arg time "$(date -u -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)" '
    {
      bomFormat: "CycloneDX", specVersion: "1.6", version: 1,
      metadata: {timestamp: $time, component: {type: "operating-system", name: "furrow", version: $version}},
      components: [
        split("\n")[] | select(. != "") | split("\t") | {
          type: "library", name: .[1], version: .[2],
          purl: (if .[0] == "deb" then "pkg:deb/debian/\(.[1])@\(.[2] | @uri)?arch=amd64&distro=debian-13"
            else "pkg:\(.[0])/\(.[1])@\(.[2] | @uri)" end)
        }
      ]
    }' > "$file"
  # An ecosystem that is missing altogether means that its list could not be read.
  [ "$(jq '[.components[].purl | split("/")[0]] | unique | length' "$file")" = 3 ] || die "the bill of materials is not whole"
}
