//! Lists inside packets, kept encoded and parsed while they are iterated.

use std::marker::PhantomData;

macro_rules! stub { ($($name:ident)*) => { $(
    /// To be written.
    #[derive(Debug, Clone, Copy, Default, PartialEq)]
    pub struct $name<'a>(PhantomData<&'a [u8]>);
)* } }
stub!(UserProperties Filters FilterNames ReasonCodes IdList);
