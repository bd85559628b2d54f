//! One-time join tokens, `K10<SHA-256 of the server CA's PEM>::<id>.<secret>`: a Kubernetes bootstrap token, pinned to its
//! cluster's CA. Refuses to show the secret in any error.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::device::hex;

const PREFIX: &str = "K10";
const HASH_LETTERS: usize = 64;
const ID_LETTERS: usize = 6;
const SECRET_LETTERS: usize = 16;

/// A join token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// SHA-256 of the server CA's PEM file, hexadecimal.
    pub(crate) ca_hash: String,
    /// The bootstrap token's public part.
    pub(crate) id: String,
    /// Its secret part.
    pub(crate) secret: String,
}

/// Why a text is no join token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token does not begin with K10 and 64 hexadecimal digits, the hash of the cluster's CA")]
    NoHash,
    #[error("the token does not end with ::ID.SECRET of 6 and 16 lower-case letters and digits")]
    NoSecret,
}

impl Token {
    /// Reads a token; white space around it is ignored.
    ///
    /// # Errors
    /// When it is of another form; the error does not show it.
    pub(crate) fn parse(text: &str) -> Result<Token, TokenError> {
        let (hash, credential) =
            text.trim().strip_prefix(PREFIX).and_then(|rest| rest.split_once("::")).ok_or(TokenError::NoHash)?;
        if hash.len() != HASH_LETTERS || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TokenError::NoHash);
        }
        let (id, secret) = credential.split_once('.').ok_or(TokenError::NoSecret)?;
        let all = |text: &str, letters: usize| {
            text.len() == letters && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if !(all(id, ID_LETTERS) && all(secret, SECRET_LETTERS)) {
            return Err(TokenError::NoSecret);
        }
        Ok(Token { ca_hash: hash.to_ascii_lowercase(), id: id.to_owned(), secret: secret.to_owned() })
    }

    /// A new token for the cluster with this server CA.
    ///
    /// # Errors
    /// When the machine gives no random numbers.
    pub(crate) fn generate(ca_pem: &[u8]) -> Result<Token, aws_lc_rs::error::Unspecified> {
        Ok(Token { ca_hash: hash(ca_pem), id: letters(ID_LETTERS)?, secret: letters(SECRET_LETTERS)? })
    }

    /// The whole token, for the one who joins.
    pub(crate) fn text(&self) -> String {
        format!("{PREFIX}{}::{}", self.ca_hash, self.bearer())
    }

    /// What the API server takes as a bearer token.
    pub(crate) fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

/// Without the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {}", self.id)
    }
}

/// The CA hash of a PEM file's content.
pub(crate) fn hash(ca_pem: &[u8]) -> String {
    hex(&Sha256::digest(ca_pem))
}

/// Random lower-case letters and digits.
///
/// # Errors
/// When the machine gives no random numbers.
pub(crate) fn letters(count: usize) -> Result<String, aws_lc_rs::error::Unspecified> {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    // The largest multiple of 36 in a byte: what is above would make some letters likelier.
    const FAIR: u8 = 252;
    let mut text = String::new();
    while text.len() < count {
        let mut byte = [0_u8; 1];
        aws_lc_rs::rand::fill(&mut byte)?;
        if byte[0] < FAIR {
            text.push(char::from(ALPHABET[usize::from(byte[0] % 36)]));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_reads_back() {
        let token = Token::generate(b"a CA").expect("made");
        assert_eq!(Token::parse(&format!("{}\n", token.text())), Ok(token.clone()));
        assert_eq!(token.ca_hash, hash(b"a CA"));
        assert_ne!(token, Token::generate(b"a CA").expect("made"));
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn the_hash_is_that_of_the_file() {
        // printf abc | sha256sum
        assert_eq!(hash(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn other_forms_are_refused() {
        let hash = hash(b"abc");
        let check = |text: &str, expected| assert_eq!(Token::parse(text), Err(expected), "{text}");
        check("", TokenError::NoHash);
        check("abcdef.0123456789abcdef", TokenError::NoHash);
        check("K10abc::abcdef.0123456789abcdef", TokenError::NoHash);
        check(&format!("K10{hash}::server:0123456789abcdef"), TokenError::NoSecret);
        check(&format!("K10{hash}::abcdef.0123456789abcde"), TokenError::NoSecret);
        check(&format!("K10{hash}::ABCDEF.0123456789abcdef"), TokenError::NoSecret);
    }
}
