//! The Parquet part of `temper_bridge.h`.

use std::os::raw::{c_char, c_int};
use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::base::{borrow_str, guard, guard_or, Outcome, TemperText};
use crate::parquet_rows::ParquetRows;

pub struct TemperParquet {
    rows: ParquetRows,
}

/// Where the reader panics, the file says what can't be.
fn undamaged<T>(read: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("the file is damaged".into()))
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_parquet_open(
    path: *const c_char,
    size: usize,
    out: *mut *mut TemperParquet,
    error: *mut TemperText,
) -> c_int {
    guard(error, || {
        let path = borrow_str(path, size)?;
        let rows = undamaged(|| ParquetRows::open(path))?;
        out.write(Box::into_raw(Box::new(TemperParquet { rows })));
        Ok(())
    })
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_parquet_free(parquet: *mut TemperParquet) {
    if !parquet.is_null() {
        guard_or((), || drop(Box::from_raw(parquet)));
    }
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_parquet_num_rows(parquet: *const TemperParquet) -> i64 {
    (*parquet).rows.num_rows()
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_parquet_next(
    parquet: *mut TemperParquet,
    out: *mut TemperText,
    error: *mut TemperText,
) -> c_int {
    guard(error, || {
        let lines = undamaged(|| (*parquet).rows.next())?;
        out.write(lines.into());
        Ok(())
    })
}
