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

# make_enrolment DIR: what firmware in setup mode takes as its Secure Boot keys, PK.auth, KEK.auth and db.auth, all three of
# our one certificate; and furrow.cer, the certificate as firmware menus read it, to be added to `db` beside other keys.
make_enrolment() {
  local name
  mkdir -p "$1"
  openssl x509 -in "$sign_cert" -outform DER -out "$1/furrow.cer"
  for name in PK KEK db; do
    in_tools --bind "$(dirname "$sign_key")" python3 "$image_dir/lib/efi_variable.py" \
      "$name" "$sign_cert" "$sign_key" "$1/$name.auth" >&2
  done
}
