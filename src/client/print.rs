//! What a message looks like on standard output, and how anything comes to standard error.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io::{self, BufWriter, Write},
};

use flotilla_mqtt::packet::Delivery;
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{
    args::OutputArgs,
    protocol::{Received, ReceivedProperties},
};

/// Writes messages as the options say.
#[derive(Debug)]
pub(super) struct Printer<W: Write> {
    out: BufWriter<W>,
    style: Style,
    base64: bool,
    /// Whether control characters are made visible: a message must not command somebody's terminal.
    escape: bool,
    line_end: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Style {
    Payload,
    TopicAndPayload,
    Json,
}

impl<W: Write> Printer<W> {
    pub(super) fn new(out: W, args: &OutputArgs, is_terminal: bool) -> Self {
        let style = match (args.json, args.verbose) {
            (true, _) => Style::Json,
            (false, true) => Style::TopicAndPayload,
            (false, false) => Style::Payload,
        };
        let line_end = if args.no_newline { "" } else { "\n" };
        Self { out: BufWriter::new(out), style, base64: args.base64, escape: is_terminal, line_end }
    }

    /// Writes one message; it may stay in the buffer until [`Printer::flush`].
    ///
    /// # Errors
    /// Standard output does not take it.
    pub(super) fn print(&mut self, message: &Received) -> io::Result<()> {
        match self.style {
            Style::Json => self.out.write_all(json(message, self.base64).as_bytes())?,
            Style::TopicAndPayload => {
                self.write_text(message.topic.as_bytes())?;
                self.out.write_all(b" ")?;
                self.write_payload(&message.payload)?;
            }
            Style::Payload => self.write_payload(&message.payload)?,
        }
        self.out.write_all(self.line_end.as_bytes())
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn write_payload(&mut self, payload: &[u8]) -> io::Result<()> {
        if self.base64 { self.out.write_all(base64(payload).as_bytes()) } else { self.write_text(payload) }
    }

    fn write_text(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.escape { self.out.write_all(visible(bytes).as_bytes()) } else { self.out.write_all(bytes) }
    }
}

/// Writes a line to standard error. That nobody reads there is no reason to stop.
pub(crate) fn tell(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// One line of JSON. Binary data that is not text appears in base64, under another name.
fn json(message: &Received, always_base64: bool) -> String {
    let object = JsonMessage { message, always_base64 };
    let json = serde_json::to_string(&object).expect("strings, numbers and maps of them are always JSON");
    if !json.contains(char::is_control) {
        return json;
    }
    // DEL and U+0080 to U+009F are valid inside JSON, and some terminals obey them.
    json.chars().fold(String::with_capacity(json.len()), |mut escaped, c| {
        if c.is_control() {
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
        escaped
    })
}

struct JsonMessage<'a> {
    message: &'a Received,
    always_base64: bool,
}

impl Serialize for JsonMessage<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { message, always_base64 } = *self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", &message.topic)?;
        match std::str::from_utf8(&message.payload) {
            Ok(text) if !always_base64 => map.serialize_entry("payload", text)?,
            _ => map.serialize_entry("payload_base64", &base64(&message.payload))?,
        }
        map.serialize_entry("qos", &(message.delivery.qos() as u8))?;
        map.serialize_entry("retain", &message.retain)?;
        map.serialize_entry("dup", &is_dup(message.delivery))?;
        if let Some(id) = message.delivery.packet_id() {
            map.serialize_entry("packet_id", &id.value())?;
        }
        if message.properties != ReceivedProperties::default() {
            map.serialize_entry(
                "properties",
                &JsonProperties { properties: &message.properties, always_base64 },
            )?;
        }
        map.end()
    }
}

struct JsonProperties<'a> {
    properties: &'a ReceivedProperties,
    always_base64: bool,
}

impl Serialize for JsonProperties<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { properties, always_base64 } = *self;
        let mut map = serializer.serialize_map(None)?;
        if let Some(is_utf8) = properties.payload_is_utf8 {
            map.serialize_entry("payload_format", if is_utf8 { "utf8" } else { "bytes" })?;
        }
        if let Some(seconds) = properties.message_expiry {
            map.serialize_entry("message_expiry", &seconds)?;
        }
        if let Some(text) = &properties.content_type {
            map.serialize_entry("content_type", text)?;
        }
        if let Some(topic) = &properties.response_topic {
            map.serialize_entry("response_topic", topic)?;
        }
        if let Some(data) = &properties.correlation_data {
            match std::str::from_utf8(data) {
                Ok(text) if !always_base64 => map.serialize_entry("correlation_data", text)?,
                _ => map.serialize_entry("correlation_data_base64", &base64(data))?,
            }
        }
        if !properties.subscription_ids.is_empty() {
            map.serialize_entry("subscription_ids", &properties.subscription_ids)?;
        }
        if !properties.user_properties.is_empty() {
            // A list of pairs: their order counts, and a name may come twice [MQTT-3.3.2-18].
            map.serialize_entry("user_properties", &properties.user_properties)?;
        }
        map.end()
    }
}

const fn is_dup(delivery: Delivery) -> bool {
    match delivery {
        Delivery::AtMostOnce => false,
        Delivery::AtLeastOnce { dup, .. } | Delivery::ExactlyOnce { dup, .. } => dup,
    }
}

/// Text as it is, except control characters other than line end and tab; other bytes in hexadecimal.
fn visible(bytes: &[u8]) -> Cow<'_, str> {
    let is_plain = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if let Ok(text) = std::str::from_utf8(bytes)
        && text.chars().all(is_plain)
    {
        return Cow::Borrowed(text);
    }
    let mut visible = String::with_capacity(bytes.len() * 2);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_plain(c) { visible.push(c) } else { visible.extend(c.escape_unicode()) }
        }
        for byte in chunk.invalid() {
            let _ = write!(visible, "\\x{byte:02x}");
        }
    }
    Cow::Owned(visible)
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            let sextet = (bits >> (18 - 6 * position)) & 63;
            encoded.push(if position <= group.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    encoded
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use flotilla_mqtt::PacketId;

    use super::*;

    fn message(topic: &str, payload: &[u8]) -> Received {
        Received {
            topic: topic.to_owned(),
            payload: payload.to_vec(),
            delivery: Delivery::AtMostOnce,
            retain: false,
            properties: ReceivedProperties::default(),
        }
    }

    fn printed(args: &OutputArgs, is_terminal: bool, message: &Received) -> Vec<u8> {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, args, is_terminal);
        printer.print(message).unwrap();
        printer.flush().unwrap();
        drop(printer);
        out
    }

    #[test]
    fn payload_is_printed_byte_for_byte_into_a_pipe() {
        let message = message("a/b", b"\x1b[2J\xff\0");
        let args = OutputArgs::default();
        assert_eq!(printed(&args, false, &message), b"\x1b[2J\xff\0\n");
        assert_eq!(
            printed(&OutputArgs { no_newline: true, ..args.clone() }, false, &message),
            b"\x1b[2J\xff\0"
        );
        assert_eq!(printed(&OutputArgs { base64: true, ..args.clone() }, false, &message), b"G1sySv8A\n");
        assert_eq!(printed(&OutputArgs { verbose: true, ..args }, false, &message), b"a/b \x1b[2J\xff\0\n");
    }

    #[test]
    fn a_terminal_is_not_commanded_by_messages() {
        let message = message("a\u{7f}", "gr\u{fc}n\t\x1b[2J\u{9b}2J\r\n".as_bytes());
        let args = OutputArgs { verbose: true, ..OutputArgs::default() };
        let text = "a\\u{7f} gr\u{fc}n\t\\u{1b}[2J\\u{9b}2J\\u{d}\n\n";
        assert_eq!(String::from_utf8(printed(&args, true, &message)).unwrap(), text);
        assert_eq!(visible(b"\xc3(\xff"), "\\xc3(\\xff");
    }

    #[test]
    fn json_has_one_line_and_every_property() {
        let mut message = message("a/\"b\"", b"line\nend\x7f");
        assert_eq!(
            json(&message, false),
            r#"{"topic":"a/\"b\"","payload":"line\nend\u007f","qos":0,"retain":false,"dup":false}"#
        );
        message.payload = vec![0xff];
        message.retain = true;
        message.delivery = Delivery::ExactlyOnce { id: PacketId::MIN, dup: true };
        message.properties = ReceivedProperties {
            payload_is_utf8: Some(true),
            message_expiry: Some(7),
            content_type: Some("text/plain".to_owned()),
            response_topic: Some("r".to_owned()),
            correlation_data: Some(b"c".to_vec()),
            subscription_ids: vec![1, 2],
            user_properties: vec![("k".to_owned(), "v".to_owned()), ("k".to_owned(), "w".to_owned())],
        };
        assert_eq!(
            json(&message, false),
            concat!(
                r#"{"topic":"a/\"b\"","payload_base64":"/w==","qos":2,"retain":true,"dup":true,"packet_id":1,"#,
                r#""properties":{"payload_format":"utf8","message_expiry":7,"content_type":"text/plain","#,
                r#""response_topic":"r","correlation_data":"c","subscription_ids":[1,2],"#,
                r#""user_properties":[["k","v"],["k","w"]]}}"#
            )
        );
    }

    #[test]
    fn base64_in_json_is_for_all_when_asked() {
        let mut message = message("t", b"text");
        message.properties.correlation_data = Some(b"\xff".to_vec());
        let base64 = r#"{"topic":"t","payload_base64":"dGV4dA==","qos":0,"retain":false,"dup":false,"properties":{"correlation_data_base64":"/w=="}}"#;
        assert_eq!(json(&message, true), base64);
    }

    #[test]
    fn base64_has_the_vectors_of_its_rfc() {
        // RFC 4648, section 10
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
