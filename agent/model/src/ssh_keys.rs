//! SSH public keys as they stand in a Secret: the lines of an `authorized_keys` file (sshd(8)). Refuses to judge them: what
//! a kind of key is worth is the guest's affair.

/// The keys of a text, one a line; comments and empty lines are none.
pub fn lines(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn each_line_is_a_key_unless_it_says_nothing() {
        let text = "# mine\r\nssh-ed25519 AAAA me@here\r\n\n  ssh-rsa BBBB\n";
        assert_eq!(lines(text).collect::<Vec<_>>(), ["ssh-ed25519 AAAA me@here", "ssh-rsa BBBB"]);
    }
}
