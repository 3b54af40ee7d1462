"""Writes Model.h5.gz: the notebook's graph, but narrow, saved by Keras 2 (TensorFlow 2.15).

Run `python make_model_h5.py` in an environment of its own (`pip install tensorflow-cpu==2.15.1`).
It prints the probabilities that test_keras_import.py expects. The graph is built twice, so that the
saved layers are called conv2d_24 and so on, as for anyone who runs a notebook's cell again.
"""

import gzip
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.keras import layers


def conv(x, filters, size=3, rate=1, **options):
    return layers.Conv2D(filters, size, padding="same", dilation_rate=rate, **options)(x)


def mlp(x, features):
    for width in (features, features // 16, features):
        x = layers.Dense(width, activation="relu", kernel_initializer="he_normal")(x)
    return x


def block(x, features):
    l2 = tf.keras.regularizers.l2(0.001)
    c1 = layers.BatchNormalization()(conv(x, features, kernel_regularizer=l2))
    c2 = layers.BatchNormalization()(conv(c1, features, kernel_regularizer=l2))
    logits = [mlp(layers.GlobalAveragePooling2D()(c2), features)]
    logits.append(mlp(layers.GlobalMaxPooling2D()(c2), features))
    gate = layers.Activation("sigmoid")(layers.Add()(logits))
    c2 = layers.Multiply()([c2, layers.Reshape((1, 1, features))(gate)])
    mean = layers.Lambda(lambda x: tf.reduce_mean(x, axis=-1, keepdims=True))
    maps = layers.Concatenate()([mean(c2), mean(c2)])
    c2 = layers.Multiply()([c2, conv(maps, 1, 7, activation="sigmoid")])
    return layers.ReLU()(layers.Add()([c1, c2]))


def notebook(size, stages, hidden):
    x = image = layers.Input((size, size, 1))
    for number, features in enumerate(stages, start=1):
        x = block(x, features)
        both = layers.Concatenate()([layers.MaxPooling2D()(x), layers.AveragePooling2D()(x)])
        x = conv(both, features, 1, activation="relu")
        if number % 2 == 0:
            scales = [conv(x, features, rate=rate, activation="relu") for rate in (2, 4, 8)]
            x = conv(layers.Concatenate()(scales), features, 1, activation="relu")
    x = layers.Dense(hidden, activation="relu")(layers.Flatten()(x))
    return tf.keras.Model(image, layers.Dense(1, activation="sigmoid")(x))


def main():
    full = notebook(224, (64, 128, 128, 256), 256)
    assert full.count_params() == 17_187_285
    tf.keras.utils.set_random_seed(0)
    model = notebook(32, (16, 16, 16, 16), 8)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            center, spread = rng.normal(0, 0.3, (2, 16)), rng.uniform(0.5, 1.5, (2, 16))
            layer.set_weights([spread[0], center[0], center[1], spread[1]])
        elif layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([1.5 * kernel, rng.normal(0, 0.1, bias.shape)])
    images = np.random.default_rng(1).random((4, 32, 32, 1), np.float32)
    print(model.predict(images, verbose=0)[:, 0].tolist())
    path = Path(__file__).with_name("Model.h5")
    model.save(path, include_optimizer=False)
    path.with_suffix(".h5.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()


if __name__ == "__main__":
    main()
