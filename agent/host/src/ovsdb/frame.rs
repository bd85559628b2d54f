//! Where one JSON document of the stream ends and the next begins: OVSDB puts nothing between them (RFC 7047,
//! section 4). Refuses documents over a limit, so that a peer cannot make this process grow.

use bytes::{Buf, BytesMut};
use serde_json::Value;
use tokio_util::codec::Decoder;

/// The largest document in bytes. A dump of a bridge with a thousand ports is about 1 MiB.
const DOCUMENT_LIMIT: usize = 16 * 1024 * 1024;

/// The decoder's place in the document that is arriving.
#[derive(Debug, Default)]
pub(super) struct Documents {
    scanned: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Documents {
    /// Looks at bytes not seen before; the length of the document once its last brace is there.
    fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(byte) = bytes.get(self.scanned) {
            self.scanned += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth += 1,
                b'}' | b']' if !self.in_string => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.scanned);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

impl Decoder for Documents {
    type Item = Value;
    type Error = std::io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Value>, std::io::Error> {
        let Some(length) = self.scan(buffer) else {
            if buffer.len() > DOCUMENT_LIMIT {
                let error = format!("a document is larger than {DOCUMENT_LIMIT} bytes");
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, error));
            }
            return Ok(None);
        };
        let document = serde_json::from_slice(&buffer[..length]);
        buffer.advance(length);
        *self = Self::default();
        Ok(Some(document?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_found_in_any_cut() {
        let documents = [json!({"a": "}{\"]["}), json!([1, [2, {"b": "\\"}]]), json!({})];
        let stream: String = documents.iter().map(Value::to_string).collect();
        for size in 1..stream.len() {
            let (mut decoder, mut buffer, mut found) = (Documents::default(), BytesMut::new(), Vec::new());
            for chunk in stream.as_bytes().chunks(size) {
                buffer.extend_from_slice(chunk);
                while let Some(document) = decoder.decode(&mut buffer).expect("valid JSON") {
                    found.push(document);
                }
            }
            assert_eq!(found, documents, "cut into {size}");
        }
    }

    #[test]
    fn what_is_no_json_ends_the_stream() {
        let mut buffer = BytesMut::from(&b"{nonsense}"[..]);
        assert!(Documents::default().decode(&mut buffer).is_err());
    }
}
