# Keys for Secure Boot: given, or made once for this machine's development builds.

# ensure_keys: sets sign_key and sign_cert.
ensure_keys() {
  "$image_dir/need" openssl
  sign_key=${SIGN_KEY:-} sign_cert=${SIGN_CERT:-}
  if [ -n "$sign_key$sign_cert" ]; then
    [ -r "$sign_key" ] && [ -r "$sign_cert" ] || die "SIGN_KEY and SIGN_CERT must both name a readable file"
    return
  fi
  local dir=$cache/keys
  sign_key=$dir/development.key sign_cert=$dir/development.crt
  [ ! -s "$sign_cert" ] || return 0
  say "making a key pair for development builds in $dir"
  mkdir -p -m 700 "$dir"
  (umask 077 && openssl req -new -x509 -newkey rsa:2048 -nodes -days 3650 -sha256 \
    -subj "/CN=Furrow development build" -keyout "$sign_key" -out "$sign_cert.new" 2>/dev/null)
  mv "$sign_cert.new" "$sign_cert"
}
