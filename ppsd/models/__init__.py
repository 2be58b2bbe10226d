import ppsd.compat

ppsd.compat.apply()
