// Conversations, kept in this browser (IndexedDB); in memory where that is not to be had.

let db = null;
const inMemory = new Map();

function promised(request) {
    return new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
    });
}

export async function open() {
    try {
        const request = indexedDB.open("precis", 1);
        request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
        db = await promised(request);
    } catch {
        db = null;
    }
}

const table = (mode) => db.transaction("conversations", mode).objectStore("conversations");

/** All of them, the newest first. */
export async function all() {
    const list = db ? await promised(table("readonly").getAll()) : [...inMemory.values()];
    return list.sort((a, b) => b.updated - a.updated);
}

export async function put(conversation) {
    if (db) await promised(table("readwrite").put(conversation));
    else inMemory.set(conversation.id, conversation);
}

export async function remove(id) {
    if (db) await promised(table("readwrite").delete(id));
    else inMemory.delete(id);
}
