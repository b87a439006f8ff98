//! The chat template's part of `temper_bridge.h`.

use std::os::raw::{c_char, c_int};

use crate::base::{borrow_str, from_raw, guard, into_raw, temper_text_free, TemperText};
use crate::template::ChatTemplate;

pub struct TemperTemplate(ChatTemplate);

#[repr(C)]
pub struct TemperSpan {
    begin: usize,
    end: usize,
}

#[repr(C)]
pub struct TemperRendering {
    text: TemperText,
    spans: *mut TemperSpan,
    num_spans: usize,
}

/// # Safety
/// `rendering` was made by this library and not freed before.
#[no_mangle]
pub unsafe extern "C" fn temper_rendering_free(rendering: TemperRendering) {
    temper_text_free(rendering.text);
    from_raw(rendering.spans, rendering.num_spans);
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_template_new(
    source: *const c_char,
    size: usize,
    out: *mut *mut TemperTemplate,
    error: *mut TemperText,
) -> c_int {
    guard(error, || {
        let template = ChatTemplate::new(borrow_str(source, size)?)?;
        out.write(Box::into_raw(Box::new(TemperTemplate(template))));
        Ok(())
    })
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_template_free(template: *mut TemperTemplate) {
    if !template.is_null() {
        drop(Box::from_raw(template));
    }
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_template_marks_generation(template: *const TemperTemplate) -> c_int {
    c_int::from((*template).0.marks_generation())
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_template_render(
    template: *const TemperTemplate,
    context: *const c_char,
    size: usize,
    out: *mut TemperRendering,
    error: *mut TemperText,
) -> c_int {
    guard(error, || {
        let rendering = (*template).0.render(borrow_str(context, size)?)?;
        let spans = rendering
            .spans
            .into_iter()
            .map(|s| TemperSpan {
                begin: s.begin,
                end: s.end,
            })
            .collect();
        let (spans, num_spans) = into_raw(spans);
        out.write(TemperRendering {
            text: rendering.text.into(),
            spans,
            num_spans,
        });
        Ok(())
    })
}
