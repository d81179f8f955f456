// Before the first paint: the theme that was chosen, if it is not the system's.
try {
    const theme = localStorage.getItem("precis.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* no storage: the system's theme */ }
