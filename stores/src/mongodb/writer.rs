//! Documents written byte by byte, after bsonspec.org 1.1: blocks are many, and their arrays long.

use mongodb::bson::{RawDocument, RawDocumentBuf};

/// The name of an element: text in a document, a number in an array.
pub(super) trait Key {
    fn append(self, bytes: &mut Vec<u8>);
}

impl Key for &str {
    fn append(self, bytes: &mut Vec<u8>) {
        debug_assert!(!self.contains('\0'), "names are escaped");
        bytes.extend_from_slice(self.as_bytes());
    }
}

impl Key for usize {
    fn append(self, bytes: &mut Vec<u8>) {
        let begin = bytes.len();
        let mut rest = self;
        loop {
            bytes.push(b'0' + u8::try_from(rest % 10).expect("a digit"));
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        bytes[begin..].reverse();
    }
}

/// Writes one document.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Returns the document that `fill` writes.
    pub(super) fn document(fill: impl FnOnce(&mut Self)) -> RawDocumentBuf {
        let mut writer = Self { bytes: Vec::with_capacity(1024) };
        writer.enclose(fill);
        RawDocumentBuf::from_bytes(writer.bytes).expect("every document that is begun is ended")
    }

    fn enclose(&mut self, fill: impl FnOnce(&mut Self)) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        fill(self);
        self.bytes.push(0);
        let length = i32::try_from(self.bytes.len() - begin).expect("a document is far below 2 GiB");
        self.bytes[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn begin(&mut self, kind: u8, key: impl Key) {
        self.bytes.push(kind);
        key.append(&mut self.bytes);
        self.bytes.push(0);
    }

    pub(super) fn double(&mut self, key: impl Key, value: f64) {
        self.begin(0x01, key);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn text(&mut self, key: impl Key, value: &str) {
        self.begin(0x02, key);
        let length = i32::try_from(value.len() + 1).expect("a text is far below 2 GiB");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
    }

    pub(super) fn nested(&mut self, key: impl Key, fill: impl FnOnce(&mut Self)) {
        self.begin(0x03, key);
        self.enclose(fill);
    }

    pub(super) fn document_at(&mut self, key: impl Key, value: &RawDocument) {
        self.begin(0x03, key);
        self.bytes.extend_from_slice(value.as_bytes());
    }

    pub(super) fn array(&mut self, key: impl Key, fill: impl FnOnce(&mut Self)) {
        self.begin(0x04, key);
        self.enclose(fill);
    }

    pub(super) fn binary(&mut self, key: impl Key, value: &[u8]) {
        self.begin(0x05, key);
        let length = i32::try_from(value.len()).expect("a payload is far below 2 GiB");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.push(0);
        self.bytes.extend_from_slice(value);
    }

    pub(super) fn boolean(&mut self, key: impl Key, value: bool) {
        self.begin(0x08, key);
        self.bytes.push(u8::from(value));
    }

    pub(super) fn null(&mut self, key: impl Key) {
        self.begin(0x0A, key);
    }

    pub(super) fn int(&mut self, key: impl Key, value: i32) {
        self.begin(0x10, key);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn long(&mut self, key: impl Key, value: i64) {
        self.begin(0x12, key);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn optional_long(&mut self, key: impl Key, value: Option<i64>) {
        match value {
            Some(value) => self.long(key, value),
            None => self.null(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Binary, Bson, Document, doc, spec::BinarySubtype};

    use super::*;

    #[test]
    fn a_document_reads_as_it_was_written() {
        let written = Writer::document(|w| {
            w.double("double", -0.5);
            w.text("text", "a\0ü");
            w.nested("nested", |w| w.int("int", -7));
            w.array("array", |w| (0..120).for_each(|i| w.long(i, i64::MIN)));
            w.binary("binary", &[0, 255]);
            w.boolean("boolean", true);
            w.optional_long("nothing", None);
        });
        let bytes = Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 255] };
        let expected = doc! {
            "double": -0.5, "text": "a\0ü", "nested": { "int": -7 }, "array": vec![Bson::Int64(i64::MIN); 120],
            "binary": bytes, "boolean": true, "nothing": Bson::Null,
        };
        assert_eq!(Document::try_from(&*written).unwrap(), expected);
    }
}
