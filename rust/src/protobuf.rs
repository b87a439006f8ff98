//! As much of the protobuf wire format as a SentencePiece model needs.
//! Source: https://protobuf.dev/programming-guides/encoding.

use crate::base::Outcome;

pub enum Field<'a> {
    Varint(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    Fixed64,
}

impl<'a> Field<'a> {
    pub fn bytes(&self) -> Outcome<&'a [u8]> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err("a field has the wrong type".into()),
        }
    }

    pub fn text(&self) -> Outcome<String> {
        Ok(String::from_utf8(self.bytes()?.to_vec())?)
    }

    pub fn integer(&self) -> Outcome<i64> {
        match self {
            Field::Varint(value) => Ok(*value as i64),
            _ => Err("a field has the wrong type".into()),
        }
    }

    pub fn boolean(&self) -> Outcome<bool> {
        Ok(self.integer()? != 0)
    }

    pub fn float(&self) -> Outcome<f32> {
        match self {
            Field::Fixed32(bits) => Ok(f32::from_bits(*bits)),
            _ => Err("a field has the wrong type".into()),
        }
    }
}

/// The fields of one message, in order, each with its number.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Reader { rest: message }
    }

    fn take(&mut self, size: usize) -> Outcome<&'a [u8]> {
        if size > self.rest.len() {
            return Err("it ends in the middle of a field".into());
        }
        let (head, tail) = self.rest.split_at(size);
        self.rest = tail;
        Ok(head)
    }

    fn varint(&mut self) -> Outcome<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is longer than 64 bits".into())
    }

    pub fn next(&mut self) -> Outcome<Option<(u64, Field<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => self.take(8).map(|_| Field::Fixed64)?,
            2 => {
                let size = usize::try_from(self.varint()?)?;
                Field::Bytes(self.take(size)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into()?)),
            kind => return Err(format!("wire type {kind} has no place in a model").into()),
        };
        Ok(Some((key >> 3, field)))
    }
}
