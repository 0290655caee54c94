//! Numbers and texts as bytes: LEB128 varints, zigzag for signed ones, lengths before texts.

/// Appends to a buffer.
pub trait Put {
    fn uint(&mut self, n: u64);
    fn int(&mut self, n: i64);
    fn text(&mut self, s: &str);
}

impl Put for Vec<u8> {
    #[inline]
    fn uint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.push(n as u8);
    }

    #[inline]
    fn int(&mut self, n: i64) {
        self.uint(((n << 1) ^ (n >> 63)) as u64);
    }

    fn text(&mut self, s: &str) {
        self.uint(s.len() as u64);
        self.extend_from_slice(s.as_bytes());
    }
}

/// Reads what `Put` wrote. Errors are words that complete "makes no sense: ...".
pub struct Get<'a> {
    rest: &'a [u8],
}

impl<'a> Get<'a> {
    pub fn new(data: &'a [u8]) -> Get<'a> {
        Get { rest: data }
    }

    #[inline]
    pub fn byte(&mut self) -> Result<u8, &'static str> {
        let (&b, rest) = self.rest.split_first().ok_or("it ends too early")?;
        self.rest = rest;
        Ok(b)
    }

    #[inline]
    pub fn uint(&mut self) -> Result<u64, &'static str> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            n |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(n);
            }
        }
        Err("a number is too long")
    }

    #[inline]
    pub fn int(&mut self) -> Result<i64, &'static str> {
        let n = self.uint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    pub fn small(&mut self) -> Result<u32, &'static str> {
        u32::try_from(self.uint()?).map_err(|_| "a number is too large")
    }

    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(head)
    }

    pub fn text(&mut self) -> Result<&'a str, &'static str> {
        let n = usize::try_from(self.uint()?).map_err(|_| "a text is too long")?;
        std::str::from_utf8(self.bytes(n)?).map_err(|_| "a text is not UTF-8")
    }

    /// A number of things to come, each of at least one byte.
    pub fn count(&mut self, max: u64) -> Result<usize, &'static str> {
        let n = self.uint()?;
        if n > max || n > self.rest.len() as u64 { Err("it counts more than it has") } else { Ok(n as usize) }
    }

    pub fn end(&self) -> Result<(), &'static str> {
        if self.rest.is_empty() { Ok(()) } else { Err("there is more than it counts") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let (unsigned, signed) = ([0, 1, 127, 128, 1 << 35, u64::MAX], [0, -1, 1, i64::MIN, i64::MAX, -300]);
        let mut out = Vec::new();
        unsigned.iter().for_each(|&n| out.uint(n));
        signed.iter().for_each(|&n| out.int(n));
        out.text("größer");
        let mut g = Get::new(&out);
        assert!(unsigned.iter().all(|&n| g.uint() == Ok(n)));
        assert!(signed.iter().all(|&n| g.int() == Ok(n)));
        assert_eq!((g.text(), g.end()), (Ok("größer"), Ok(())));
        assert!(g.byte().is_err());
        assert!(Get::new(&[0xff; 11]).uint().is_err());
    }
}
