// SPDX-License-Identifier: MPL-2.0
//! Setting properties of elements that may be of any version: what is not
//! there, or does not know the value, is left alone.

use gst::glib;
use gst::prelude::*;

/// A value as the table has it; the property's own type is found when it is
/// set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    /// For any type of number, brought into the property's range.
    Number(i64),
    /// Text, or the nick of an enumeration or of a flag.
    Text(&'static str),
    /// The first of these nicks that the enumeration has.
    AnyOf(&'static [&'static str]),
    /// A number that this V4L2 control of `extra-controls` gets.
    Control(u32),
}

pub fn clamp_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

pub struct Properties<'a>(pub &'a gst::Element);

impl Properties<'_> {
    /// False: there is no such property, or it does not take the value.
    pub fn set(&self, name: &str, value: Value) -> bool {
        if let Value::Control(number) = value {
            self.control(name, number);
            return true;
        }
        let Some(spec) = self.0.find_property(name) else {
            return false;
        };
        let writable = spec.flags().contains(glib::ParamFlags::WRITABLE);
        let Some(value) = converted(&spec, value).filter(|_| writable) else {
            return false;
        };
        self.0.set_property_from_value(name, &value);
        true
    }

    /// Sets one V4L2 control and keeps the others, which the element sets
    /// again when it opens the device anew.
    pub fn control(&self, name: &str, value: u32) {
        let Some(mut controls) = self.controls() else {
            return;
        };
        controls.set(name, i32::try_from(value).unwrap_or(i32::MAX));
        self.0.set_property(CONTROLS, controls);
    }

    /// A control that acts when it is set, so that it must not stay among
    /// those that are set again.
    pub fn press(&self, name: &str) {
        let Some(controls) = self.controls() else {
            return;
        };
        let button = gst::Structure::builder("controls").field(name, 1i32);
        self.0.set_property(CONTROLS, button.build());
        self.0.set_property(CONTROLS, controls);
    }

    fn controls(&self) -> Option<gst::Structure> {
        let spec = self.0.find_property(CONTROLS)?;
        if spec.value_type() != gst::Structure::static_type() {
            return None;
        }
        let old: Option<gst::Structure> = self.0.property(CONTROLS);
        Some(old.unwrap_or_else(|| gst::Structure::new_empty("controls")))
    }
}

const CONTROLS: &str = "extra-controls";

fn converted(spec: &glib::ParamSpec, value: Value) -> Option<glib::Value> {
    match value {
        Value::Bool(value) => spec
            .is::<glib::ParamSpecBoolean>()
            .then(|| value.to_value()),
        Value::Number(number) => numeric(spec, number),
        Value::Text(text) => {
            if spec.value_type() == String::static_type() {
                Some(text.to_value())
            } else {
                nick(spec, text)
            }
        }
        Value::AnyOf(nicks) => nicks.iter().find_map(|text| nick(spec, text)),
        Value::Control(_) => None,
    }
}

fn nick(spec: &glib::ParamSpec, text: &str) -> Option<glib::Value> {
    if let Some(class) = glib::EnumClass::with_type(spec.value_type()) {
        return class.to_value_by_nick(text);
    }
    let class = glib::FlagsClass::with_type(spec.value_type())?;
    class.builder().set_by_nick(text).build()
}

/// GObject warns of a number out of range, and takes none at all.
fn numeric(spec: &glib::ParamSpec, number: i64) -> Option<glib::Value> {
    macro_rules! integer {
        ($kind:ty, $number:ty) => {
            if let Some(spec) = spec.downcast_ref::<$kind>() {
                let (least, most) = (i128::from(spec.minimum()), i128::from(spec.maximum()));
                let number = i128::from(number).clamp(least, most);
                return <$number>::try_from(number).ok().map(|n| n.to_value());
            }
        };
    }
    integer!(glib::ParamSpecUInt, u32);
    integer!(glib::ParamSpecInt, i32);
    integer!(glib::ParamSpecUInt64, u64);
    integer!(glib::ParamSpecInt64, i64);
    integer!(glib::ParamSpecUChar, u8);
    if let Some(spec) = spec.downcast_ref::<glib::ParamSpecDouble>() {
        let number = number as f64;
        return Some(number.clamp(spec.minimum(), spec.maximum()).to_value());
    }
    None
}
