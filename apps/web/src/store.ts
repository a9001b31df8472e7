/**
 * Photos and their embeddings, kept in IndexedDB. A photo waits with its file until it has an embedding; then the file
 * goes and a small picture stays. So indexing goes on where it stopped, whenever the page is opened again.
 */

import { fromHalves, toHalves } from "../kit/half.ts";

export interface Photo {
  id: number;
  name: string;
  /** Name, size and date of the file: the same one is taken once. */
  key: string;
  state: "waiting" | "done" | "failed";
  file: Blob | null;
  thumbnail: Blob | null;
  /** Hash of the artifact that made the embedding. */
  space: string;
  /** Bits of halves. */
  embedding: Uint16Array | null;
  problem: string;
}

const NAME = "mobileclip";
const PHOTOS = "photos";

/** Why a browser keeps nothing, in words. */
export class StoreError extends Error {
  override name = "StoreError";
}

export class Store {
  private readonly database: IDBDatabase;

  private constructor(database: IDBDatabase) {
    this.database = database;
  }

  static open(): Promise<Store> {
    return new Promise((resolve, reject) => {
      const refused = () => reject(new StoreError("This browser keeps nothing for this page (a private window?): photos cannot be indexed."));
      let request: IDBOpenDBRequest;
      try {
        request = indexedDB.open(NAME, 1);
      } catch {
        refused();
        return;
      }
      request.onupgradeneeded = () => {
        const photos = request.result.createObjectStore(PHOTOS, { keyPath: "id", autoIncrement: true });
        photos.createIndex("key", "key", { unique: true });
        photos.createIndex("state", "state");
      };
      request.onsuccess = () => resolve(new Store(request.result));
      request.onerror = refused;
      request.onblocked = refused;
    });
  }

  private run<T>(mode: IDBTransactionMode, work: (photos: IDBObjectStore) => IDBRequest<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction(PHOTOS, mode);
      const request = work(transaction.objectStore(PHOTOS));
      transaction.oncomplete = () => resolve(request.result);
      const failed = () => reject(explained(transaction.error ?? request.error));
      transaction.onabort = failed;
      transaction.onerror = failed;
    });
  }

  /** Adds files that are not there yet; gives how many were new. */
  async add(files: readonly File[]): Promise<number> {
    let added = 0;
    for (const file of files) {
      const key = `${file.name}|${file.size}|${file.lastModified}`;
      const there = await this.run("readonly", (photos) => photos.index("key").count(key));
      if (there) continue;
      const photo: Omit<Photo, "id"> = {
        name: file.name, key, state: "waiting", file, thumbnail: null, space: "", embedding: null, problem: "",
      };
      await this.run("readwrite", (photos) => photos.add(photo));
      added++;
    }
    return added;
  }

  /** The next photo without an embedding. */
  async next(): Promise<Photo | undefined> {
    return this.run<Photo | undefined>("readonly", (photos) => photos.index("state").get("waiting"));
  }

  /** Keeps an embedding and a small picture instead of the file. */
  async done(photo: Photo, space: string, embedding: Float32Array, thumbnail: Blob): Promise<Photo> {
    const changed: Photo = { ...photo, state: "done", file: null, thumbnail, space, embedding: toHalves(embedding) };
    await this.run("readwrite", (photos) => photos.put(changed));
    return changed;
  }

  async failed(photo: Photo, problem: string): Promise<void> {
    await this.run("readwrite", (photos) => photos.put({ ...photo, state: "failed", file: null, problem }));
  }

  count(state: Photo["state"]): Promise<number> {
    return this.run("readonly", (photos) => photos.index("state").count(state));
  }

  all(state: Photo["state"]): Promise<Photo[]> {
    return this.run("readonly", (photos) => photos.index("state").getAll(state));
  }

  async remove(ids: readonly number[]): Promise<void> {
    for (const id of ids) await this.run("readwrite", (photos) => photos.delete(id));
  }

  async clear(): Promise<void> {
    await this.run("readwrite", (photos) => photos.clear());
  }
}

/** Embeddings of photos, row by row. */
export function rowsOf(photos: readonly Photo[], width: number): Float32Array<ArrayBuffer> {
  const rows = new Float32Array(photos.length * width);
  photos.forEach((photo, i) => photo.embedding && rows.set(fromHalves(photo.embedding).subarray(0, width), i * width));
  return rows;
}

function explained(error: DOMException | null): Error {
  if (error?.name === "QuotaExceededError") {
    return new StoreError("There is no room left on this device for more photos. Remove some, or add fewer.");
  }
  return new StoreError(`This browser could not keep the photos (${error?.message ?? "unknown"}).`);
}
