//! Pictures of displays: QEMU's portable pixmaps (PPM, binary, 8 bits a colour) become PNG, which is what clients ask for.
//! Refuses other formats, and sizes that no display has.

use std::io::Write as _;

/// Largest width and height, in pixels: twice an 8K display's.
const SIDE_MAX: u32 = 16_384;

/// Largest pixmap that is worth reading, in bytes: a display of 5120 by 2880 pixels.
pub const PIXMAP_MAX_BYTES: usize = 48 << 20;

/// What is not such a pixmap, or cannot become a PNG.
#[derive(Debug, thiserror::Error)]
pub enum ScreenshotError {
    /// The head is not `P6 WIDTH HEIGHT 255`.
    #[error("the picture is not a binary portable pixmap of 8 bits a colour")]
    NotAPixmap,
    /// A display has at least one pixel and at most `SIDE_MAX` a side.
    #[error("a picture of {0} by {1} pixels is not one of a display")]
    Size(u32, u32),
    /// The pixels are not as many as the head says.
    #[error("the picture has {found} bytes of pixels, {expected} were expected")]
    Cut {
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// The encoder refused.
    #[error("could not write the picture as PNG")]
    Encode(#[from] png::EncodingError),
    /// There was no room.
    #[error("could not write the picture as PNG")]
    Write(#[from] std::io::Error),
}

/// The PNG of a pixmap (<https://netpbm.sourceforge.net/doc/ppm.html>).
///
/// # Errors
/// When it is none.
pub fn png(pixmap: &[u8]) -> Result<Vec<u8>, ScreenshotError> {
    let mut rest = pixmap.strip_prefix(b"P6").ok_or(ScreenshotError::NotAPixmap)?;
    let mut numbers = [0; 3];
    for number in &mut numbers {
        (*number, rest) = take_number(rest).ok_or(ScreenshotError::NotAPixmap)?;
    }
    let [width, height, depth] = numbers;
    // One white space character ends the head.
    let (Some(pixels), 255) = (rest.get(1..), depth) else { return Err(ScreenshotError::NotAPixmap) };
    if !(1..=SIDE_MAX).contains(&width) || !(1..=SIDE_MAX).contains(&height) {
        return Err(ScreenshotError::Size(width, height));
    }
    let expected = width as usize * height as usize * 3;
    if pixels.len() != expected {
        return Err(ScreenshotError::Cut { found: pixels.len(), expected });
    }
    let mut encoded = Vec::new();
    let mut encoder = png::Encoder::new(&mut encoded, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer()?;
    stream.write_all(pixels)?;
    stream.finish()?;
    writer.finish()?;
    Ok(encoded)
}

/// A number after white space and comments, and what follows it.
fn take_number(text: &[u8]) -> Option<(u32, &[u8])> {
    let mut rest = text;
    if !rest.first()?.is_ascii_whitespace() {
        return None;
    }
    loop {
        rest = rest.trim_ascii_start();
        if rest.first() != Some(&b'#') {
            break;
        }
        let line = rest.iter().position(|byte| *byte == b'\n')?;
        rest = &rest[line..];
    }
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    Some((number, &rest[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_stay_what_they_are() {
        let pixels: Vec<u8> = (0..2 * 3 * 3).collect();
        for head in ["P6\n2 3\n255\n", "P6 # QEMU\n# screendump\n2 3 255 "] {
            let encoded = png(&[head.as_bytes(), &pixels].concat()).expect("a picture");
            let mut reader = png::Decoder::new(std::io::Cursor::new(encoded)).read_info().expect("a PNG");
            let mut decoded = vec![0; reader.output_buffer_size().expect("it is small")];
            let info = reader.next_frame(&mut decoded).expect("a picture");
            assert_eq!((info.width, info.height, info.color_type), (2, 3, png::ColorType::Rgb));
            assert_eq!(decoded, pixels);
        }
    }

    #[test]
    fn what_is_no_picture_of_a_display_is_refused() {
        let check = |pixmap: &[u8], expected: &str| {
            let told = png(pixmap).expect_err("no picture").to_string();
            assert!(told.contains(expected), "{told}");
        };
        for head in [
            &b""[..],
            b"P5\n1 1\n255\nx",
            b"P6",
            b"P6\n1 1\n65535\nxxxxxx",
            b"P61 1 255 xxx",
            b"P6\n#",
            b"P6\n-1 1 255 ",
        ] {
            check(head, "not a binary portable pixmap");
        }
        check(b"P6\n0 1\n255\n", "0 by 1 pixels");
        check(b"P6\n4294967295 4294967295\n255\n", "is not one of a display");
        check(b"P6\n4294967296 1\n255\n", "not a binary portable pixmap");
        check(b"P6\n1 1\n255\nxx", "2 bytes of pixels, 3 were expected");
        check(b"P6\n1 1\n255\nxxxx", "4 bytes of pixels, 3 were expected");
    }
}
