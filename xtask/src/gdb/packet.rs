//! gdb's remote protocol, as far as framing goes: `$text#checksum`, acknowledged by `+`.

use std::io::{self, Read};

/// What gdb sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A command. It has to be acknowledged.
    Packet(String),
    /// A command that did not arrive whole. It has to be asked for again.
    Damaged,
    /// Ctrl-C.
    Interrupt,
}

/// Reads the next thing that gdb sends; none at the end of the connection.
pub fn read(from: &mut impl Read) -> io::Result<Option<Incoming>> {
    loop {
        match byte(from)? {
            None => return Ok(None),
            Some(0x03) => return Ok(Some(Incoming::Interrupt)),
            Some(b'$') => return body(from),
            // Acknowledgements: a stream that loses nothing never has to repeat anything.
            Some(_) => {}
        }
    }
}

fn body(from: &mut impl Read) -> io::Result<Option<Incoming>> {
    let mut text = Vec::new();
    let mut sum = 0u8;
    loop {
        match byte(from)? {
            None => return Ok(None),
            Some(b'#') => break,
            Some(byte) => {
                sum = sum.wrapping_add(byte);
                text.push(byte);
            }
        }
    }
    let (Some(high), Some(low)) = (byte(from)?, byte(from)?) else {
        return Ok(None);
    };
    let digits = [high, low];
    let expected = std::str::from_utf8(&digits)
        .ok()
        .and_then(|digits| u8::from_str_radix(digits, 16).ok());
    Ok(Some(if expected == Some(sum) {
        Incoming::Packet(String::from_utf8_lossy(&text).into_owned())
    } else {
        Incoming::Damaged
    }))
}

fn byte(from: &mut impl Read) -> io::Result<Option<u8>> {
    let mut buffer = [0];
    Ok((from.read(&mut buffer)? == 1).then_some(buffer[0]))
}

/// A reply as it goes over the line. Replies are plain text without characters that would need an escape.
#[must_use]
pub fn framed(text: &str) -> String {
    let sum = text.bytes().fold(0u8, u8::wrapping_add);
    format!("${text}#{sum:02x}")
}

/// Bytes in hexadecimal, lowest address first.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a hexadecimal text.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| {
            u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16)
                .ok()
                .filter(|_| pair.len() == 2)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_past_acknowledgements() {
        let mut own: &[u8] = b"++$m10,4#2e\x03";
        assert_eq!(
            read(&mut own).unwrap(),
            Some(Incoming::Packet("m10,4".into()))
        );
        assert_eq!(read(&mut own).unwrap(), Some(Incoming::Interrupt));
        assert_eq!(read(&mut own).unwrap(), None);
    }

    #[test]
    fn a_wrong_checksum_is_noticed() {
        let mut from: &[u8] = b"$g#00";
        assert_eq!(read(&mut from).unwrap(), Some(Incoming::Damaged));
    }

    #[test]
    fn replies_are_framed_as_the_protocol_wants() {
        assert_eq!(framed("OK"), "$OK#9a");
        assert_eq!(framed(""), "$#00");
    }

    #[test]
    fn hexadecimal_goes_both_ways() {
        assert_eq!(hex(&[0, 0xab]), "00ab");
        assert_eq!(unhex("00ab"), Some(vec![0, 0xab]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
    }
}
