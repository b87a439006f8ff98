//! What every exported function needs: owned bytes, borrowed bytes, and a border that no panic crosses.

use std::any::Any;
use std::os::raw::{c_char, c_int};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use crate::template::TooLarge;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Outcome<T> = Result<T, Failure>;

#[repr(C)]
pub struct TemperText {
    data: *mut c_char,
    size: usize,
}

impl From<String> for TemperText {
    fn from(text: String) -> Self {
        let (data, size) = into_raw(text.into_bytes());
        TemperText {
            data: data as *mut c_char,
            size,
        }
    }
}

/// Gives a vector away; `from_raw` takes it back.
pub fn into_raw<T>(values: Vec<T>) -> (*mut T, usize) {
    let size = values.len();
    (Box::into_raw(values.into_boxed_slice()) as *mut T, size)
}

/// # Safety
/// `data` and `size` come from one `into_raw`, once; or `data` is null.
pub unsafe fn from_raw<T>(data: *mut T, size: usize) {
    if !data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, size)));
    }
}

/// # Safety
/// `text` was made by this library and not freed before.
#[no_mangle]
pub unsafe extern "C" fn temper_text_free(text: TemperText) {
    from_raw(text.data, text.size);
}

/// # Safety
/// `data` points to `size` values that outlive the borrow; it may be null when `size` is 0.
pub unsafe fn borrow<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

/// Borrowed UTF-8; anything else is an error that says where it stops being UTF-8.
///
/// # Safety
/// As for `borrow`.
pub unsafe fn borrow_str<'a>(data: *const c_char, size: usize) -> Outcome<&'a str> {
    std::str::from_utf8(borrow(data as *const u8, size))
        .map_err(|e| format!("the text is not UTF-8 from byte {} on", e.valid_up_to()).into())
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let words = payload
        .downcast_ref::<&str>()
        .map(|s| s.to_string())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    format!("internal error: {}", words.unwrap_or_else(|| "panic".into()))
}

/// Runs `body`; an error or a panic becomes `*error` and 1, a template that went too far 2.
///
/// # Safety
/// `error` can be written to.
pub unsafe fn guard(error: *mut TemperText, body: impl FnOnce() -> Outcome<()>) -> c_int {
    static QUIET: Once = Once::new();
    // The message travels in the return value; the default hook would print it as well.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let (status, message) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return 0,
        Ok(Err(failure)) if failure.is::<TooLarge>() => (2, failure.to_string()),
        Ok(Err(failure)) => (1, failure.to_string()),
        Err(payload) => (1, panic_message(&*payload)),
    };
    error.write(message.into());
    status
}

/// For functions without an error output: a panic gives `fallback`.
pub fn guard_or<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(fallback)
}
